"""Published results: complete rows, and differences only where the protocol is the same."""

import pandas as pd
import pytest

from iscutils.evaluation.published import beside, own_rows, published, write_sscd_metrics
from iscutils.files.artifacts import KitError
from iscutils.run.parameters import compose, load_notebooks


def test_every_row_says_where_it_comes_from():
    table = published()
    texts = ["system", "method", "dataset", "split", "protocol", "source"]
    assert table[texts].notna().all().all()
    assert (table[texts] != "").all().all()
    assert table["uap"].between(0.1, 1).all()
    assert table["recall_at_p90"].dropna().between(0, 1).all()
    assert not table.duplicated(["system", "method", "dataset", "split", "protocol"]).any()


def test_the_golden_rows():
    rows = published("rdcd", "sscd", dataset="disc21").set_index(["method", "protocol"])["uap"]
    assert rows["EfficientNet-B0, 64 values", "whitened, 1.0[0,2]"] == 0.535
    assert rows["ResNet-50 mixup, 512 values", "whitened, 1.0[0,2]"] == 0.725
    assert published("d2lv").uap.max() == 0.9004


def test_an_unknown_system_names_the_close_one():
    with pytest.raises(KitError, match="did you mean 'rdcd'"):
        published("rdc")


def test_a_difference_needs_the_same_protocol():
    own = pd.DataFrame(
        [("ours", "disc21", "dev", "whitened", 0.70), ("ours", "folder", "all", "whitened", 0.9)],
        columns=["method", "dataset", "split", "protocol", "uap"],
    ).assign(rule="knn:10")
    table = beside(own, "sscd")
    assert list(table["source"][:2]) == ["this run", "this run"]
    theirs = table[table["source"] != "this run"]
    compared = theirs[theirs["difference"].notna()]
    assert set(compared["protocol"]) == {"whitened"}
    assert set(compared["split"]) == {"dev"}
    row = compared[compared["method"] == "ResNet-50 mixup, 512 values"].iloc[0]
    assert row["difference"] == pytest.approx(0.70 - 0.615)


def test_result_files_of_sscd(tmp_path):
    row = {"uap": 0.7243, "recall_at_1": 0.782, "recall_at_p90": 0.6308, "queries": 50_000}
    path = write_sscd_metrics(tmp_path / "disc_metrics.csv", {("PCAW512", "1.0[0,2]"): row})
    assert path.read_text() == (
        'codec,score_norm,uAP,accuracy-at-1,recall-at-p90\nPCAW512,"1.0[0,2]",0.7243,0.782,0.6308\n'
    )
    row = {"strong_map": 0.8658, "overall_uap": 0.9824}
    path = write_sscd_metrics(tmp_path / "c.csv", {("Flat", "none"): row}, copydays=True)
    assert path.read_text() == "codec,strong_mAP,overall_uAP\nFlat,0.8658,0.9824\n"


def test_stages_of_a_run_find_the_rows_of_their_protocol():
    stages = pd.DataFrame(
        {"uap": [0.6, 0.63, 0.74, 0.9], "recall_at_p90": [0.4, None, 0.6, 0.8]},
        index=["teacher raw", "teacher whitened", "teacher normalised", "local verification"],
    )
    codec = "PCAW512,L2norm,Flat"
    options = dict(dataset="disc21", split="dev", rule="knn:10")
    own = own_rows(stages, codec, "1.0[0,2]", **options)
    assert own["protocol"].tolist() == ["raw", "whitened", "whitened, 1.0[0,2]", "pairs"]
    table = beside(own, "sscd").set_index(["method", "protocol"])["difference"]
    both = table["ResNet-50 mixup, 512 values"]
    assert both["whitened"] == pytest.approx(0.63 - 0.615)
    assert both["whitened, 1.0[0,2]"] == pytest.approx(0.74 - 0.725)
    raw = own_rows(stages, "Flat", "2.0[9]", **options)
    assert raw["protocol"].tolist() == ["raw", "raw", "2.0[9]", "pairs"]
    assert raw["rule"].tolist() == ["knn:10"] * 3 + [""]


def test_a_difference_needs_the_same_candidate_rule_where_one_was_stated():
    stages = pd.DataFrame(
        {"uap": [0.4, 0.5], "recall_at_p90": [0.1, 0.2]}, index=["teacher raw", "final"]
    )
    for rule, stated in (("knn:10", False), ("global:500000", True)):
        own = own_rows(stages, "Flat", "none", dataset="disc21", split="dev", rule=rule)
        table = beside(own, "baseline", "sscd")
        compared = table[table.difference.notna()].method
        assert ("GIST, PCA 256" in set(compared)) == stated
        assert ("ResNet-50 mixup, released weights" in set(compared)) != stated
    own = own_rows(stages, "Flat", "none", dataset="ndec", split="all", rule="knn:10")
    table = beside(own, dataset="ndec").set_index("method").difference
    assert table["ResNet-50 mixup, released weights"] == pytest.approx(0.4 - 0.442)  # none stated
    assert table["D2LV + ASL"] == pytest.approx(0.5 - 0.613)


@pytest.mark.parametrize(
    ("sets", "system", "protocol", "rule"),
    [
        (["sscd", "disc21"], "sscd", "whitened, 1.0[0,2]", "knn:10"),
        (["sscd_released", "disc21"], "sscd", "whitened, 1.0[0,2]", "knn:10"),
        (["sscd", "copydays"], "sscd", "whitened", "knn:100"),
        (["sscd_released", "copydays"], "sscd", "whitened", "knn:100"),
        (["rdcd", "disc21"], "rdcd", "whitened, 1.0[0,2]", "knn:10"),
        (["dino", "disc21"], "baseline", "whitened, 1.0[0,2]", "knn:10"),
    ],
)
def test_a_published_row_is_one_composition_of_parameter_sets(sets, system, protocol, rule):
    values = compose(load_notebooks(), sets)["06_retrieval"]
    stages = pd.DataFrame({"uap": [0.5], "recall_at_p90": [0.1]}, index=["x normalised"])
    used = {name: values[name] for name in ("codec", "score_norm", "rule")}
    own = own_rows(stages, **used, dataset=sets[1], split="dev")
    assert own[["protocol", "rule"]].values.tolist() == [[protocol, rule]]
    rows = published(system, dataset=sets[1])
    assert ((rows.protocol == protocol) & (rows.rule == rule)).any()
    assert values["data"] == f"{sets[1]}:data/{sets[1]}"


@pytest.mark.parametrize("system", ["d2lv", "bot", "imgfp", "asl", "sscd", "rdcd"])
def test_ndec_and_disc21_leave_the_rules_of_a_system_alone(system):
    books = load_notebooks()
    alone = compose(books, [system])
    for data in ("disc21", "ndec"):
        both = compose(books, [system, data])
        for name, values in both.items():
            changed = {key for key, value in values.items() if value != alone[name][key]}
            assert changed <= {"data", "train_images"}
