"""Recipes: what files may say, what is drawn from them, and that the shipped ones hold."""

import numpy as np
import pytest
import yaml
from PIL import Image

from iscutils import edits
from iscutils.edits.recipe_files import parse_recipe, recipe_folder
from iscutils.files.artifacts import KitError

SHIPPED = edits.list_recipes()
D2LV = ["basic", "blur", "color", "dark", "face", "opaque", "occlude"]
TWINS = ["basic", "blur", "color", "face"]


def names(recipe, seed, group=None):
    drawn = (group or recipe.group).sample(np.random.default_rng(seed))
    return [name for name, _ in drawn]


def photo(size=(300, 200), seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BILINEAR)


DONORS = [photo((300, 200), 1), photo((150, 260), 2), photo((64, 64), 3)]


def test_all_published_recipes_are_there():
    wanted = [f"d2lv/{name}" for name in D2LV] + [f"d2lv/{name}_bw" for name in TWINS]
    wanted += ["sscd/simclr", "sscd/strong_blur", "sscd/advanced", "sscd/mixup", "bot", "imgfp"]
    wanted += ["lyakaap/v83", "lyakaap/v86", "lyakaap/v98", "isc_queries", "training"]
    wanted += ["overlay_boxes", "ndec_negatives"]
    assert set(wanted) <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_load_and_edit(name):
    recipe = edits.load_recipe(name)
    assert recipe.description
    assert recipe.key() == edits.load_recipe(name).key()
    for seed in range(6):
        edited = edits.edit(photo(), recipe, np.random.default_rng(seed), DONORS)
        assert edited.image.mode == "RGB"
        assert 0 <= edited.visible <= 1
        again = edits.edit(photo(), recipe, np.random.default_rng(seed), DONORS)
        assert edited.image.tobytes() == again.image.tobytes()


def test_keys_of_recipes_differ():
    keys = {name: edits.load_recipe(name).key() for name in SHIPPED}
    assert len(set(keys.values())) == len(keys)


@pytest.mark.parametrize("name", [f"d2lv/{n}" for n in D2LV] + [f"d2lv/{n}_bw" for n in TWINS])
def test_d2lv_sets_end_square_and_grey_twins_are_grey(name):
    recipe = edits.load_recipe(name)
    for group in recipe.groups:
        for seed in range(5):
            operations = group.sample(np.random.default_rng(seed))
            image = np.asarray(edits.apply(photo(), operations, DONORS).image)
            assert image.shape[:2] == (256, 256)
            if name.endswith("_bw"):
                assert (np.ptp(image, axis=2) == 0).all()


def test_d2lv_basic_draws_three_different_edits_then_squashes():
    recipe = edits.load_recipe("d2lv/basic")
    for seed in range(60):
        drawn = names(recipe, seed)
        assert len(drawn) == 4
        assert len(set(drawn)) == 4
        assert drawn[-1] == "squash"
    assert len(edits.load_recipe("d2lv/vocabulary").group.entries) == 17
    assert len(edits.load_recipe("bot").group.entries[0].group.entries) == 24


def test_d2lv_colour_bars_gray_and_draws_two_strong_changes():
    recipe = edits.load_recipe("d2lv/color")
    assert "gray" not in recipe.operations
    strong = recipe.group.entries[2].group
    for seed in range(40):
        assert len({name for name, _ in strong.sample(np.random.default_rng(seed))}) == 2


def test_d2lv_dark_is_dark():
    recipe = edits.load_recipe("d2lv/dark")
    means = []
    for seed in range(20):
        edited = edits.edit(photo(), recipe, np.random.default_rng(seed), DONORS)
        means.append(np.asarray(edited.image).mean())
    assert np.median(means) < 50
    black = edits.Edited.of(Image.new("RGB", (64, 64)))
    assert not recipe.accepts(black)  # no contrast
    assert recipe.accepts(edits.Edited.of(photo()))


def test_sscd_advanced_runs_its_steps_in_the_published_order():
    recipe = edits.load_recipe("sscd/advanced")
    published = ["hflip", "rotate", "glyphs", "emoji", "rotate", "resized_crop", "jitter", "gray",
                 "blur", "jpeg"]  # fmt: skip
    assert [entry.operation for entry in recipe.group.entries] == published
    shares = [entry.share for entry in recipe.group.entries]
    assert shares == [0.5, 0.05, 0.1, 0.2, 0.05, 1.0, 0.8, 0.2, 0.5, 0.2]
    order = {entry.name: i for i, entry in enumerate(recipe.group.entries)}
    assert list(order.values()) == sorted(order.values())
    for seed in range(200):
        places = [published.index(n) for n in names(recipe, seed) if n != "rotate"]
        assert places == sorted(places)


def test_sscd_quarter_turn_keeps_the_size_and_blacks_out_half_of_a_wide_picture():
    turn = edits.load_recipe("sscd/advanced").group.entries[1]
    assert {values["degrees"] for seed in range(30) for _, values in
            turn.sample(np.random.default_rng(seed))} == {90.0, 180.0, 270.0}  # fmt: skip
    white = Image.new("RGB", (400, 200), (255, 255, 255))
    values = {"degrees": 90.0, "canvas": "keep", "fill": [0, 0, 0]}
    edited = edits.apply(white, [("rotate", values)])
    assert edited.image.size == (400, 200)
    assert np.asarray(edited.image).mean() / 255 == pytest.approx(0.5, abs=0.01)
    assert edited.visible == pytest.approx(0.5, abs=0.02)


def test_sscd_recipes_differ_only_where_published():
    simclr, blur = (edits.load_recipe(f"sscd/{n}") for n in ("simclr", "strong_blur"))
    assert simclr.group.entries[:4] == blur.group.entries[:4]
    radius = [recipe.group.entries[4].parameters["radius"] for recipe in (simclr, blur)]
    assert [(r.low * 224, r.high * 224) for r in radius] == [
        pytest.approx((0.1, 2.0), rel=0.02), pytest.approx((1.0, 5.0), rel=0.02)
    ]  # fmt: skip
    mixup = edits.load_recipe("sscd/mixup")
    assert mixup.mix == {"probability": 0.05, "alpha": 2.0}
    assert names(mixup, 5) == names(edits.load_recipe("sscd/advanced"), 5) or mixup.group


def test_lyakaap_versions_get_harder():
    v83, v86, v98 = (edits.load_recipe(f"lyakaap/{n}") for n in ("v83", "v86", "v98"))
    shares = [recipe.group.entries[0].share for recipe in (v83, v86, v98)]
    assert shares == [0.25, 0.3, 0.35]
    assert all(len(recipe.group.entries[2].group.entries) == 12 for recipe in (v83, v86, v98))
    orders = {tuple(names(v98, seed, v98.group.entries[2].group)) for seed in range(20)}
    assert len({tuple(sorted(order)) for order in orders}) > 5  # each edit by chance
    mild = names(v98, 0, v98.original)
    assert set(mild) <= {"resized_crop", "hflip"}


@pytest.mark.parametrize("name", ["isc_queries", "training"])
def test_flat_recipes_draw_what_they_say(name):
    recipe = edits.load_recipe(name)
    rng = np.random.default_rng(0)
    samples = [recipe.sample(rng) for _ in range(2000)]
    drawn = [operation for sample in samples for operation, _ in sample]
    shares = {entry.operation: entry.share for entry in recipe.group.entries if entry.operation}
    for operation, share in shares.items():
        found = drawn.count(operation) / len(samples)
        if recipe.group.draw == "each":
            assert found == pytest.approx(share, abs=0.04)
        else:
            assert found == pytest.approx(2 * share / sum(shares.values()), rel=0.4, abs=0.01)
    assert recipe.needs_donors
    assert recipe.sample(np.random.default_rng(3)) == recipe.sample(np.random.default_rng(3))


def test_query_recipe_draws_one_to_three_edits():
    recipe = edits.load_recipe("isc_queries")
    lengths = [len(names(recipe, seed)) for seed in range(2000)]
    assert {n: lengths.count(n) / 2000 for n in (1, 2, 3)} == pytest.approx(
        {1: 1 / 3, 2: 1 / 3, 3: 1 / 3}, abs=0.04
    )


def test_overlay_recipe_has_boxes_and_is_silent_in_three_of_ten():
    recipe = edits.load_recipe("overlay_boxes")
    kinds, areas = [], []
    for seed in range(150):
        edited = edits.edit(photo((200, 150)), recipe, np.random.default_rng(seed), DONORS)
        boxes = [box for box in edited.boxes if box.kind != "sticker"]
        kinds.append(bool(boxes))
        pixels = edited.image.width * edited.image.height
        if recipe.accepts(edited):
            areas += [np.prod(np.ptp(box.outline, axis=0)) / pixels for box in boxes]
    assert np.mean(kinds) == pytest.approx(0.7, abs=0.1)
    assert min(areas) >= 0.04
    assert max(areas) <= 0.85


def test_recipe_ranges_are_kept():
    recipe = parse_recipe("r", {"operations": {"crop": {"area": [0.3, 0.31], "x": 0.5}}})
    for seed in range(50):
        ((_, values),) = recipe.sample(np.random.default_rng(seed))
        assert 0.3 <= values["area"] <= 0.31
        assert values["x"] == 0.5
    assert recipe.key() != parse_recipe("r", {"operations": {"crop": {}}}).key()


def test_one_of_draws_the_listed_values():
    recipe = parse_recipe("r", {"operations": {"jpeg": {"quality": {"one_of": [10, 30]}}}})
    drawn = {recipe.sample(np.random.default_rng(seed))[0][1]["quality"] for seed in range(30)}
    assert drawn == {10, 30}


def test_either_draws_ranges_by_weight():
    amount = {"either": [[0.7, 1.0], [0.3, [0.5, 0.6]]]}
    recipe = parse_recipe("r", {"operations": {"crop": {"area": amount}}})
    rng = np.random.default_rng(0)
    drawn = np.array([recipe.sample(rng)[0][1]["area"] for _ in range(2000)])
    assert (drawn == 1).mean() == pytest.approx(0.7, abs=0.04)
    assert ((drawn >= 0.5) & (drawn <= 0.6)).mean() == pytest.approx(0.3, abs=0.04)


def test_groups_nest_and_shuffle():
    inner = {"draw": "shuffle", "operations": {"hflip": {}, "vflip": {}, "gray": {}}}
    content = {
        "draw": "each",
        "operations": {"any": inner, "last": {"operation": "squash", "side": 32}},
    }
    recipe = parse_recipe("r", content)
    drawn = [tuple(names(recipe, seed)) for seed in range(60)]
    assert all(order[-1] == "squash" and len(order) == 4 for order in drawn)
    assert len(set(drawn)) == 6  # all orders of three
    assert recipe.operations == ("hflip", "vflip", "gray", "squash")


def test_an_included_recipe_can_be_changed():
    include = {"recipe": "d2lv/vocabulary", "count": {2: 1}, "without": ["gray", "pad"]}
    recipe = parse_recipe("r", {"operations": {"some": include}})
    assert not {"gray", "pad"} & set(recipe.operations)
    assert len(names(recipe, 0)) == 2
    more = {"recipe": "d2lv/vocabulary", "operations": {"sharpen": {"factor": 3.0}}}
    assert parse_recipe("r", {"operations": {"some": more}}).operations[-1] == "sharpen"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "expected a mapping"),
        ({"operations": {"corp": {}}}, "operation 'corp' is unknown; did you mean 'crop'"),
        ({"operations": {"crop": {"size": 1}}}, "no parameter 'size'; allowed: area, ratio"),
        ({"operations": {"crop": {"area": [0.2, 3]}}}, "3 is out of bounds; allowed: 0.01 to 1"),
        ({"operations": {"crop": {"area": [0.8, 0.2]}}}, "not a range"),
        ({"operations": {"crop": {"area": "1e-1"}}}, "not a range"),
        ({"operations": {"crop": {"area": {"one_of": []}}}}, "one_of"),
        ({"operations": {"crop": {"area": {"one_of": [7]}}}}, "7 is out of bounds"),
        ({"operations": {"crop": {"area": {"either": [[0, 0.5]]}}}}, "weight above 0"),
        ({"operations": {"crop": {"area": {"either": [[1, 5.0]]}}}}, "5.0 is out of bounds"),
        ({"operations": {"crop": {"area": {"some": [1]}}}}, "one_of"),
        ({"operations": {"jpeg": {"quality": [1.5, 3]}}}, "not a range"),
        ({"operations": {"rotate": {"canvas": ["grow"]}}}, "allowed: expand, keep, inner"),
        ({"operations": {"crop": {"weight": -1}}}, "0 or more"),
        ({"operations": {"crop": {"probability": 1}}}, "no parameter 'probability'"),
        ({"operations": {"crop": {}}, "count": {2: 1}}, "allowed: 0 to 1"),
        ({"operations": {"crop": {}}, "count": {1: 0}}, "all frequencies"),
        ({"operations": {"crop": {}}, "amount": 1}, "unknown key 'amount'"),
        ({"operations": {"crop": {}}, "draw": "some"}, "allowed: choose, each, shuffle"),
        ({"operations": {"crop": {"probability": 2}}, "draw": "each"}, "0 to 1"),
        ({"operations": {"crop": {}}, "min_visible": 2.0}, "0 to 0.95"),
        ({"operations": {"crop": {}}, "sourse": 3}, "did you mean 'source'"),
        ({"operations": {"crop": {}}, "faces": 1}, "true, false"),
        ({"operations": {"crop": {}}, "box_area": [0.5]}, "not a range"),
        ({"operations": {"crop": {}}, "mix": {"alpha": 2.0}}, "probability, alpha"),
        ({"operations": {"crop": {}}, "original": {"operations": {"crp": {}}}}, "crp"),
        ({"operations": {"a": {"recipe": "nope"}}}, "no recipe 'nope'"),
        ({"operations": {"a": {"recipe": "d2lv/basic", "size": 1}}}, "unknown key 'size'"),
        ({"operations": {"a": {"recipe": "d2lv/basic", "without": ["x"]}}}, "no 'x'"),
    ],
)
def test_recipe_errors_name_what_is_allowed(content, message):
    with pytest.raises(KitError, match=message) as caught:
        parse_recipe("mine", content)
    assert "\n" not in str(caught.value)


def test_missing_broken_and_circular_recipe_files(tmp_path, monkeypatch):
    with pytest.raises(KitError, match="did you mean 'isc_queries'"):
        edits.load_recipe("isc_querys")
    broken = tmp_path / "broken.yaml"
    broken.write_text("operations: {crop: [")
    with pytest.raises(KitError, match="not valid YAML"):
        edits.load_recipe(broken)
    monkeypatch.setattr("iscutils.edits.recipe_files.recipe_folder", lambda: tmp_path)
    (tmp_path / "loop.yaml").write_text("operations: {again: {recipe: loop}}")
    with pytest.raises(KitError, match="circle"):
        edits.load_recipe("loop")


def test_recipe_files_name_each_edit_once():
    class Strict(yaml.SafeLoader):
        def construct_mapping(self, node, deep=False):
            keys = [self.construct_object(key) for key, _ in node.value]
            assert len(keys) == len(set(keys)), keys
            return super().construct_mapping(node, deep)

    for file in recipe_folder().rglob("*.yaml"):
        yaml.load(file.read_text(encoding="utf-8"), Loader=Strict)
