"""Image copy detection: thin package behind the numbered notebooks."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("iscutils")
except PackageNotFoundError:  # a checkout that was never installed
    __version__ = "0"
