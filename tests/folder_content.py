"""What lies in a folder, for tests of the sets that are written there."""

import csv


def content(folder):
    """Bytes of every file below a folder, by relative path."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def rows(file):
    """Rows of a CSV file, as dictionaries."""
    with open(file, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))
