"""The page: it stands by itself, says what it was given, and shows the pictures it names."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from scaleup.audit import page
from scaleup.audit.gather import Gathered
from tests.theory.audit.synthetic import SIGMAS
from theory.audit import audit, audit_data
from theory.audit.page import figures
from theory.audit.page.verdict import verdict
from theory.common.tolerances import ALGEBRA

NASTY = (
    "<script>alert('x')</script>",
    "\"quoted\" & 'single' <b>",
    "costs $5 and $6_x^{2}$ \\frac",
    "</td></table> é – ü",
    "</style><img src=x onerror=alert(1)>",
)
SIDE = 6
PNG = page.encoded(np.zeros((3, 2, 2), dtype=np.uint8))


def gathered(prompts, n, *, a=0.6, dim=2, seed=0, pictures=True, source="t.csv against b.csv"):
    """Rewards N(g + a, 1); features that follow them; pictures that tell side and row."""
    rng = np.random.default_rng(seed)
    codes = rng.permutation(np.repeat(np.arange(len(prompts)), n))
    rewards = [codes + tilt + rng.normal(size=len(codes)) for tilt in (0, a)]
    features = [0.7 * r[:, None] + rng.normal(size=(len(r), dim)) for r in rewards]
    data = audit_data(
        *rewards,
        codes,
        codes,
        base_features=features[0] if dim else None,
        tuned_features=features[1] if dim else None,
        prompt_names=list(prompts),
    )

    def picture(side, row):
        found = np.zeros((3, SIDE, SIDE), dtype=np.uint8)
        found[0], found[1], found[2, 0] = row // 256, row % 256, 100 + side
        return found

    def of_rows(side, rows):
        return [picture(side, row) for row in rows]

    return Gathered(data, source, "reward", of_rows if pictures else None)


def audited(found, **options):
    return audit(found.data, wrappers=["linear"], permutations=19, second=False, **options)


class Reader(HTMLParser):
    """Tags with their attributes, texts of table cells, and every text."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.open, self.cells, self.texts, self.text = [], [], [], [], text
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        if tag == "td":
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag  # every element is closed, in order

    def handle_data(self, data):
        if self.open and self.open[-1] == "td":
            self.cells[-1] += data
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def images(self):
        """(attributes, the picture) of every image."""
        head = "data:image/png;base64,"
        found = []
        for tag, attrs in self.tags:
            if tag == "img":
                assert attrs["src"].startswith(head)
                data = base64.b64decode(attrs["src"].removeprefix(head), validate=True)
                found.append((attrs, Image.open(io.BytesIO(data))))
        return found


def written(folder, report, found):
    page.write_page(folder / "audit.html", report, found)
    return Reader((folder / "audit.html").read_text("utf-8"))


def stands_alone(read):
    """Nothing is fetched, run or followed."""
    kinds = {tag for tag, _ in read.tags}
    assert not kinds & {"script", "link", "iframe", "object", "embed", "a", "base", "form", "svg"}
    without_data = re.sub(r"base64,[A-Za-z0-9+/=]+", "", read.text)
    assert not re.search(r"https?:|//|url\(|@import|file:", without_data)
    for _, attrs in read.tags:
        assert not {"href", "srcset", "onerror", "onload", "style", "background"} & set(attrs)
        assert attrs.get("src", "data:").startswith("data:")
    assert read.open == []


def decode(read):
    """Every picture whole; plots have something drawn on them."""
    for attrs, image in read.images:
        pixels = np.asarray(image.convert("RGB"))
        if attrs.get("class") == "plot":
            # Not blank: axes, text and data are dark, the rest is white.
            assert pixels.std() > 5
            assert min(image.size) > 100
        assert attrs["alt"]


@pytest.fixture(scope="module")
def nasty():
    """(report, gathered) of prompts that try to get out of their places."""
    found = gathered(NASTY, 60)
    return audited(found), found


@pytest.fixture(scope="module")
def nasty_page(nasty, tmp_path_factory):
    return written(tmp_path_factory.mktemp("nasty"), *nasty)


@pytest.fixture
def quick(monkeypatch):
    """Figures take longer than all the rest."""
    monkeypatch.setattr(page, "png", lambda figure: PNG)


# --- pages of every kind


def test_a_page_with_all_parts_stands_alone(nasty_page):
    stands_alone(nasty_page)
    decode(nasty_page)
    heads = [
        t
        for t in nasty_page.texts
        if t
        in (
            "The reward",
            "Which wrapper",
            "Prompts",
            "Pictures, given their reward",
            "How this was found",
        )
    ]
    assert len(heads) == 5
    plots = [a for a, _ in nasty_page.images if a.get("class") == "plot"]
    assert len(plots) == 3
    assert len(nasty_page.images) == len(plots) + 2 * page.SHOWN


def test_prompts_are_text_and_nothing_else(nasty, nasty_page):
    """As the table's cells, captions and alternative texts, letter by letter."""
    numbers = {name: i for i, name in enumerate(nasty[0].data.prompts, 1)}
    for prompt in NASTY:
        assert f"{numbers[prompt]}. {prompt}" in nasty_page.cells
    shown = {attrs["alt"] for attrs, _ in nasty_page.images if attrs.get("class") != "plot"}
    assert shown <= set(NASTY)
    assert shown
    for line in verdict(nasty[0]):
        assert f"{line[:1].upper()}{line[1:]}." in nasty_page.texts


def test_sources_rewards_and_notes_are_escaped(tmp_path):
    """Names of files and of reward columns are the user's too."""
    found = gathered(["x"], 10, source="<i>t</i>.csv against 'b' & \"c\".csv")
    found = replace(found, reward="<u>0.5*a</u>")
    report = replace(audited(found), notes=("left out: <b>",))
    read = written(tmp_path, report, found)
    assert not report.conclusive
    assert not {"i", "u"} & {tag for tag, _ in read.tags}
    assert "Audit of <i>t</i>.csv against 'b' & \"c\".csv" in read.texts
    assert "<u>0.5*a</u>" in read.texts
    assert "left out: <b>" in read.texts


def test_one_prompt_without_features(tmp_path):
    found = gathered([""], 100, dim=0, pictures=True)
    report = audited(found)
    assert report.conclusive
    read = written(tmp_path, report, found)
    stands_alone(read)
    decode(read)
    assert len(read.images) == 2
    assert not {"Prompts", "Pictures, given their reward"} & set(read.texts)
    assert "200 base" not in read.text
    assert any("100 base and 100 tuned samples, 1 prompt, 0 features" in t for t in read.texts)


def test_features_without_pictures(tmp_path, quick):
    found = gathered([""], 120, pictures=False)
    read = written(tmp_path, audited(found), found)
    stands_alone(read)
    assert len(read.images) == 2
    assert any("conditional test looked at" in t for t in read.texts)


def test_an_inconclusive_page(tmp_path):
    found = gathered(["x", "y"], 9)
    report = audited(found)
    read = written(tmp_path, report, found)
    stands_alone(read)
    assert read.images == []
    assert ("div", {"class": "verdict none"}) in read.tags
    doubt = report.doubts[0]
    assert f"Cannot conclude, because {doubt}." in read.texts
    assert "Which wrapper" not in read.texts


def test_the_same_audit_gives_the_same_page(nasty, nasty_page, tmp_path):
    """No dates, no random names; and matplotlib's settings are as before."""
    before = dict(mpl.rcParams)
    assert written(tmp_path, *nasty).text == nasty_page.text
    assert dict(mpl.rcParams) == before
    assert [p.name for p in tmp_path.iterdir()] == ["audit.html"]


# --- pictures


def galleries(read):
    """[[(side, row, caption's prompt)]] of both galleries, read from the pixels."""
    found = []
    for attrs, image in read.images:
        if attrs.get("class") == "plot":
            continue
        r, g, b = np.asarray(image.convert("RGB"))[0, 0].tolist()
        found.append((b - 100, 256 * r + g, attrs["alt"]))
    return found[: page.SHOWN], found[page.SHOWN :]


def test_pictures_are_those_that_differ_most(nasty, nasty_page):
    """Base pictures where the direction is lowest, tuned where it is highest; with the prompt and
    reward of the very row. Catches places in the sorted side taken for rows, and sides or signs
    swapped."""
    report, found = nasty
    few, many = report.conditional.witness
    captions = [t for t in nasty_page.texts if re.fullmatch(r"-?[0-9.e+-]+", t)]
    shown = galleries(nasty_page)
    for number, (values, gallery) in enumerate(((few, shown[0]), (-many, shown[1]))):
        samples = (found.data.base, found.data.tuned)[number]
        assert {side for side, _, _ in gallery} == {number}
        rows = [row for _, row, _ in gallery]
        expected = np.argsort(np.where(np.isnan(values), np.inf, values), kind="stable")
        assert rows == expected[: page.SHOWN].tolist()
        for row, (_, _, prompt) in zip(rows, gallery, strict=True):
            (place,) = np.flatnonzero(samples.row == row)
            assert prompt == NASTY[samples.prompt[place]]
            assert f"{samples.reward[place]:.3g}" in captions


def test_large_pictures_are_made_smaller_and_small_ones_kept():
    ramp = (np.arange(300) % 256).astype(np.uint8)
    large = np.broadcast_to(ramp, (3, 600, 300))
    small = np.broadcast_to(ramp[:7], (3, 5, 7))
    found = [Image.open(io.BytesIO(page.encoded(x))) for x in (large, small)]
    assert [image.size for image in found] == [(128, 256), (7, 5)]
    assert np.array_equal(np.asarray(found[1]), small.transpose(1, 2, 0))


def test_a_picture_that_cannot_be_read_leaves_no_page(nasty, tmp_path, quick):
    report, found = nasty

    def gone(side, rows):
        raise ValueError("image = 'x.png' cannot be read")

    with pytest.raises(ValueError, match="cannot be read"):
        page.write_page(tmp_path / "audit.html", report, replace(found, pictures=gone))
    assert list(tmp_path.iterdir()) == []


# --- figures


@pytest.fixture(scope="module")
def many():
    """(report, gathered): more prompts than are named one by one."""
    found = gathered([f"prompt {i}" for i in range(35)], 14)
    return audited(found), found


def labels(axes):
    return [text.get_text() for text in axes.get_yticklabels()]


def test_of_many_prompts_both_ends_are_drawn(many, tmp_path):
    report, found = many
    assert report.conclusive
    figure = figures.prompts(report)
    named = labels(figure.axes[0])
    assert len(named) == len(set(named)) == figures.MOST_PROMPTS
    assert set(named) <= {f"{i}. {p}" for i, p in enumerate(found.data.prompts, 1)}
    assert "15 prompts that lost most and 15 that lost least, of 35" in figure.get_suptitle()
    lost = np.nan_to_num(report.excess.by_prompt)
    order = np.argsort(-lost, kind="stable")
    half = figures.MOST_PROMPTS // 2
    for end, drawn in ((order[:half], named[:half]), (order[-half:], named[half:])):
        # Prompts without a loss of their own count as 0, in any order.
        known = {f"{i + 1}. {found.data.prompts[i]}" for i in end if lost[i] != 0}
        assert known <= set(drawn)
    read = written(tmp_path, report, found)
    stands_alone(read)
    decode(read)
    for i, prompt in enumerate(found.data.prompts, 1):  # the table has all of them
        assert f"{i}. {prompt}" in read.cells


def test_prompts_stand_beside_their_own_numbers(nasty):
    """Dots: each prompt's tilt; bars: what it lost. From top to bottom the loss falls."""
    report, _ = nasty
    figure = figures.prompts(report)
    first, second = figure.axes
    named = [int(text.split(".")[0]) - 1 for text in labels(first)]
    (dots,) = [line for line in first.lines if line.get_marker() == "o"]
    assert ALGEBRA.holds(dots.get_xdata(), report.tilts.tilt[named])
    y = dots.get_ydata()
    bars = {b.get_y() + b.get_height() / 2: b.get_width() for b in second.patches}
    lost = report.excess.by_prompt[named]
    assert ALGEBRA.holds([bars[v] for v in y], 100 * lost)
    assert np.all(np.diff(lost) <= 0)
    assert np.all(np.diff(y) < 0)


def test_dots_and_bars_of_a_prompt_are_at_one_height(nasty):
    first, second = figures.prompts(nasty[0]).axes
    assert first.get_ylim() == second.get_ylim()


def test_one_prompt_has_no_figure_of_prompts():
    assert figures.prompts(audited(gathered([""], 60))) is None


def errorbar_points(axes):
    """x, y of the dots."""
    (dots,) = [line for line in axes.lines if line.get_marker() == "o"]
    return np.asarray(dots.get_xdata()), np.asarray(dots.get_ydata())


def test_the_ratio_is_that_of_the_two_laws():
    """Of one prompt, base twice as many as tuned: log of shares, whatever the numbers of samples.
    Catches counts that are not put in proportion."""
    rng = np.random.default_rng(0)
    base, tuned = rng.normal(size=2000), 0.6 + rng.normal(size=1000)
    report = audit(audit_data(base, tuned), wrappers=["linear"], permutations=19)
    figure = figures.ratio(report, "reward")
    x, y = errorbar_points(figure.axes[0])
    edges = figures._edges(base, tuned)
    shares = [np.histogram(side, edges)[0] / len(side) for side in (base, tuned)]
    place = 0.5 * (edges[1:] + edges[:-1])
    kept = np.isin(place, x)
    assert len(x) > 5
    assert ALGEBRA.holds(y, np.log(shares[1] / shares[0])[kept], 1.0)
    # The fitted exp(a r): the base's own rewards, weighted and binned.
    a = report.exponential.parameters["a"]
    weights = np.exp(a * base)
    tilted = np.histogram(base, edges, weights=weights)[0] / weights.sum()
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    (line,) = [y for label, y in lines.items() if str(label).startswith("exp(")]
    assert ALGEBRA.holds(line, np.log(tilted / shares[0])[kept], 1.0)


def test_prompts_in_other_shares_are_no_tilt():
    """Tuned samples ask twice as often for the prompt of high rewards, and are the base's: the
    ratio's dots lie about 0. Catches a base that is not reweighted by prompts."""
    rng = np.random.default_rng(1)
    sizes = ((1000, 500), (500, 1000))
    codes = [np.repeat([0, 1], size) for size in sizes]
    data = audit_data(
        *(3 * c + rng.normal(size=len(c)) for c in codes), *codes, prompt_names=["x", "y"]
    )
    report = audit(data, wrappers=["linear"], permutations=19)
    (axes,) = figures.ratio(report, "reward").axes
    (bars,) = axes.containers
    _, y = errorbar_points(axes)
    half = np.array([segment[1, 1] - segment[0, 1] for segment in bars[2][0].get_segments()]) / 2
    assert np.all(np.abs(y) < half / figures.SIGMAS * SIGMAS)
    assert len(y) > 5


def test_the_ratio_of_binary_rewards():
    """A verifier's 0 and 1, of which the tuned model has twice as many right."""
    base, tuned = np.repeat([0.0, 1.0], [600, 200]), np.repeat([0.0, 1.0], [430, 370])
    report = audit(audit_data(base, tuned), wrappers=["linear"], permutations=19)
    assert report.conclusive
    _, y = errorbar_points(figures.ratio(report, "reward").axes[0])
    assert ALGEBRA.holds(y, np.log([430 / 600, 370 / 200]))


def test_bins_that_the_base_does_not_reach():
    """Tuned rewards beyond the base's largest, as any tilt of many samples gives."""
    rng = np.random.default_rng(0)
    base, tuned = rng.normal(size=1000), 1.5 + rng.normal(size=4000)
    assert np.histogram(base, figures._edges(base, tuned))[0][-1] == 0
    report = audit(audit_data(base, tuned), wrappers=["linear"], permutations=19)
    assert report.conclusive
    figures.ratio(report, "reward")


def test_histograms_are_densities():
    rng = np.random.default_rng(0)
    base, tuned = rng.normal(size=900), 0.6 + rng.normal(size=500)
    report = audit(audit_data(base, tuned), wrappers=["linear"], permutations=19)
    (axes,) = figures.histograms(report, "reward").axes
    drawn = {patch.get_label(): patch.get_data() for patch in axes.patches}
    assert len(drawn) == 3
    for data in drawn.values():
        assert ALGEBRA.holds((data.values * np.diff(data.edges)).sum(), 1.0)
    means = [
        (d.values * (d.edges[1:] + d.edges[:-1]) / 2).sum() * np.diff(d.edges)[0]
        for d in drawn.values()
    ]
    bin_ = float(np.diff(next(iter(drawn.values())).edges)[0])
    of_base, of_tuned, of_tilted = means
    assert abs(of_base - base.mean()) < bin_
    assert abs(of_tuned - tuned.mean()) < bin_
    assert abs(of_tilted - tuned.mean()) < 2 * bin_


def test_names_are_no_formulas():
    """$ is a dollar in labels of prompts and rewards; long ones are cut."""
    figure = figures.histograms(audited(gathered([""], 60)), "0.5*$a_b$ + $c^d$")
    axes = figure.axes[0]
    assert axes.get_xlabel() == r"reward: 0.5*\$a_b\$ + \$c^d\$"
    assert page.png(figure).startswith(b"\x89PNG")
    assert len(figures._label("x" * 200)) < 80
    assert figures._name({"number": 7, "prompt": "x" * 200}) == f"7. {'x' * 33}…"
    assert figures._name({"number": 7, "prompt": "$5"}) == r"7. \$5"


@pytest.mark.parametrize("prompt", ["図のある犬", "a dog 🐕"], ids=["chinese", "emoji"])
def test_prompts_in_any_script_can_be_drawn(prompt):
    page.png(figures.prompts(audited(gathered([prompt, "b"], 60))))
