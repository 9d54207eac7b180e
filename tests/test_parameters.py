"""Parameters cells, parameter sets and the errors that stop a run before a kernel starts."""

import pytest
import yaml

from iscutils.__main__ import main
from iscutils.files.artifacts import KitError
from iscutils.run.parameters import compose, convert, load_notebooks, parse_parameters

CELL = """# what the notebook needs
name: str = "a # b"  # a word, with a "quote"
lr: float = 1e-3  # step, 1/s
epochs: int = -3  # passes
exact: bool = False  # slow
scales: list[float] = [1, 0.5]  # of the image
ids: list[str] = []  # empty: all
limit: int | None = None  # images; none: all
größe: int = 2  # ü offsets of bytes, not of characters
"""


@pytest.fixture
def books(project):
    project.notebook("03_training", "epochs: int = 2  # passes\nlr: float = 0.1  # step")
    project.notebook(
        "05_extraction", "batch_size: int = 8  # images\nmodel: str | None = None  # x"
    )
    return load_notebooks()


def test_every_type_of_a_parameters_cell_is_read():
    found = parse_parameters(CELL)
    assert [(p.name, p.type, p.default) for p in found.values()] == [
        ("name", "str", "a # b"),
        ("lr", "float", 0.001),
        ("epochs", "int", -3),
        ("exact", "bool", False),
        ("scales", "list[float]", [1.0, 0.5]),
        ("ids", "list[str]", []),
        ("limit", "int | None", None),
        ("größe", "int", 2),
    ]
    assert found["name"].meaning == 'a word, with a "quote"'
    assert found["größe"].meaning == "ü offsets of bytes, not of characters"
    assert isinstance(found["scales"].default[0], float)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("x = 1", "expected 'name: type = literal"),
        ("x: int", "expected 'name: type = literal"),
        ("import os", "expected 'name: type = literal"),
        ("x: dict = {}", "type 'dict'"),
        ("x: Path = 1", "type 'Path'"),
        ("x: int = 2 * 3", "not a literal"),
        ("x: int = 1.5", "not a literal of its type"),
        ("x: bool = 1", "not a literal of its type"),
        ("x: list[int] = [\n 1]", "one line"),
        ("x: int = 1\nx: int = 2", "declared twice"),
        ("x: int = ", "invalid syntax"),
    ],
)
def test_a_malformed_parameters_cell_names_the_notebook_and_the_line(line, problem):
    with pytest.raises(KitError, match=problem) as error:
        parse_parameters(line, "05_extraction.ipynb")
    assert "05_extraction.ipynb" in str(error.value)
    assert line.splitlines()[-1].split("=")[0].strip("[] 1") in str(error.value)


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (3, "float", 3.0),
        (3, "int", 3),
        (None, "str | None", None),
        ("a", "str | None", "a"),
        ([1, 2.5], "list[float] | None", [1.0, 2.5]),
        (True, "bool", True),
    ],
)
def test_allowed_values(value, kind, expected):
    got = convert(value, kind)
    assert got == expected
    assert type(got) is type(expected)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (True, "int"),
        (True, "float"),
        (1, "bool"),
        ("true", "bool"),
        (1.0, "int"),
        ("1", "int"),
        (None, "int"),
        (5, "str"),
        (False, "str"),
        ("1,2", "list[int]"),
        ([1, "2"], "list[int]"),
        ([[1]], "list[int]"),
        ({"a": 1}, "str"),
    ],
)
def test_refused_values(value, kind):
    with pytest.raises(ValueError, match=r".*"):
        convert(value, kind)


@pytest.mark.parametrize(
    ("written", "remedy"),
    [("1e-3", "1.0e-3"), ("1e3", "1.0e+3"), ("2.5E5", "2.5e+5"), ("-1e-3", "-1.0e-3")],
)
def test_scientific_numbers_that_yaml_takes_for_text_get_the_remedy(
    books, project, written, remedy
):
    project.params("demo/03_training", f"lr: {written}")
    with pytest.raises(KitError, match="YAML reads") as error:
        compose(books, ["demo"])
    assert str(error.value).endswith(f"write {remedy}")
    # The remedy is right: YAML reads it as the number that was meant.
    assert yaml.safe_load(remedy) == float(written)
    assert compose(books, [], [f"lr={written}"])["03_training"]["lr"] == float(written)


def test_sets_compose_and_the_later_one_wins(books, project):
    project.params("one/common", "workers: 3")
    project.params("one/03_training", "epochs: 10\nlr: 1")
    project.params("two/common", "workers: 4")
    project.params("two/03_training", "epochs: 20")
    values = compose(books, ["one", "two"], ["batch_size=9"])
    assert values["03_training"] == {"run": "demo", "workers": 4, "epochs": 20, "lr": 1.0}
    assert values["05_extraction"] == {"run": "demo", "workers": 4, "batch_size": 9, "model": None}
    assert compose(books, ["two", "one"])["03_training"]["epochs"] == 10


def test_common_goes_only_to_the_notebooks_that_declare_it(books, project):
    project.params("one/common", "batch_size: 1")
    values = compose(books, ["one"])
    assert values["05_extraction"]["batch_size"] == 1
    assert "batch_size" not in values["03_training"]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (
            "one/03_training",
            "epohcs: 5",
            "params/one/03_training.yaml: 'epohcs' is not a parameter of 03_training; "
            "did you mean 'epochs'?",
        ),
        # Known elsewhere is not known here.
        ("one/03_training", "batch_size: 5", "'batch_size' is not a parameter of 03_training"),
        ("one/common", "batchsize: 5", "common.yaml: 'batchsize' .* did you mean 'batch_size'"),
        ("one/3_training", "epochs: 5", "belongs to no notebook; did you mean '03_training'"),
        (
            "one/03_training",
            "epochs: ten",
            r"'epochs' of 03_training must be int, got 'ten' \(str\)",
        ),
        ("one/03_training", "epochs: true", r"must be int, got True \(bool\)"),
        ("one/05_extraction", "model: no", r"must be str \| None, got False.*put it in quotes"),
        ("one/03_training", "- 1", "must hold lines 'name: value', got list"),
        ("one/03_training", "a: [", "not valid YAML"),
    ],
)
def test_errors_of_sets_name_file_and_remedy(books, project, file, text, message):
    project.params(file, text)
    with pytest.raises(KitError, match=message):
        compose(books, ["one"])


def test_a_file_that_would_be_overlooked_is_an_error(books, project):
    project.params("one/03_training", "").rename(project.root / "params/one/03_training.yml")
    with pytest.raises(KitError, match=r"name it 03_training\.yaml"):
        compose(books, ["one"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch=5", "--set: 'epoch' is not a parameter of any notebook; did you mean 'epochs'"),
        ("epochs=ten", "must be int"),
        ("epochs=1.5", "must be int"),
        ("lr=fast", "must be float"),
        ("epochs", "expected name=value"),
        ("=5", "expected name=value"),
    ],
)
def test_errors_of_assignments(books, text, message):
    with pytest.raises(KitError, match=message):
        compose(books, [], [text])


def test_assignments_are_read_for_the_declared_type(books):
    values = compose(books, [], ["model=on", "lr=1", "run=007", "workers=2"])
    assert values["05_extraction"] == {"run": "007", "workers": 2, "batch_size": 8, "model": "on"}
    assert values["03_training"]["lr"] == 1.0
    assert values["03_training"]["workers"] == 2
    assert compose(books, [], ["model=null"])["05_extraction"]["model"] is None


def test_recipes_are_no_set_and_unknown_sets_name_the_close_match(books, project):
    project.params("recipes/training", "x: 1")
    with pytest.raises(KitError, match="unknown parameter set 'recipes'"):
        compose(books, ["recipes"])
    with pytest.raises(KitError, match="did you mean 'demo'"):
        compose(books, ["dmeo"])


def test_params_command_shows_values_types_and_meanings(books, project, capsys):
    project.params("big/03_training", "epochs: 100")
    assert main(["params", "big", "--set", "batch_size=64"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["notebook", "parameter", "type", "value", "meaning"]
    assert ["03_training", "epochs", "int", "100", "passes"] in rows
    assert ["05_extraction", "batch_size", "int", "64", "images"] in rows
    assert ["(all)", "workers", "int", "0", "processes"] in rows
    assert sum(row[1] == "workers" for row in rows) == 1


def test_list_command_shows_notebooks_and_sets(books, project, capsys):
    project.params("big/common", "# At published scale.\nworkers: 8")
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert "05_extraction" in out
    assert "At published scale." in out


def test_errors_end_with_status_1_and_one_line(books, capsys):
    assert main(["params", "nothing"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: unknown parameter set 'nothing'")
    assert error.count("\n") == 1
