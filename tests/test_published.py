"""Published results: complete rows, and differences only where the protocol is the same."""

import pandas as pd
import pytest

from iscutils.artifacts import KitError
from iscutils.published import beside, own_rows, published


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
    )
    table = beside(own, "sscd")
    assert list(table["source"][:2]) == ["this run", "this run"]
    theirs = table[table["source"] != "this run"]
    compared = theirs[theirs["difference"].notna()]
    assert set(compared["protocol"]) == {"whitened"}
    assert set(compared["split"]) == {"dev"}
    row = compared[compared["method"] == "ResNet-50 mixup, 512 values"].iloc[0]
    assert row["difference"] == pytest.approx(0.70 - 0.615)


def test_stages_of_a_run_find_the_rows_of_their_protocol():
    stages = pd.DataFrame(
        {"uap": [0.6, 0.63, 0.74, 0.9], "recall_at_p90": [0.4, None, 0.6, 0.8]},
        index=["teacher raw", "teacher whitened", "teacher normalised", "local verification"],
    )
    codec = "PCAW512,L2norm,Flat"
    own = own_rows(stages, codec, "1.0[0,2]", dataset="disc21", split="dev")
    assert own["protocol"].tolist() == ["raw", "whitened", "whitened, 1.0[0,2]", "pairs"]
    table = beside(own, "sscd").set_index(["method", "protocol"])["difference"]
    both = table["ResNet-50 mixup, 512 values"]
    assert both["whitened"] == pytest.approx(0.63 - 0.615)
    assert both["whitened, 1.0[0,2]"] == pytest.approx(0.74 - 0.725)
    raw = own_rows(stages, "Flat", "2.0[9]", dataset="disc21", split="dev")
    assert raw["protocol"].tolist() == ["raw", "raw", "2.0[9]", "pairs"]
