"""The page of tools/serve.py in Chromium: upload, answer, errors, a phone's width."""

import json
import tempfile
from urllib.parse import urlsplit

import browser as browsers
import cv2
import numpy as np
import photo_set
import pytest
import served
from visits import Visitor

pytestmark = browsers.needed

SHOWS = "document.body.dataset.state == "
WIDTHS = (360, 1100)
FITS = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return photo_set.make(tmp_path_factory.mktemp("photos"), "--encoded", "png")


@pytest.fixture(scope="module")
def server(photos):
    with served.serve(photos.folder, "--solver", photos.solver, "--max-upload", 0.25) as one:
        yield one


@pytest.fixture(scope="module")
def browser():
    with tempfile.TemporaryDirectory() as folder:
        one = Visitor(folder)
        yield one
        one.close()


@pytest.fixture(params=WIDTHS)
def page(browser, server, request):
    """The page, loaded, at each width; at the end it has not asked any other address."""
    browser.errors.clear()
    browser.visit(server.address, request.param)
    browser.until(SHOWS + "'status'")
    yield browser
    own = urlsplit(server.address).netloc
    for address in browser.requests:
        assert urlsplit(address.removeprefix("blob:")).netloc == own, address
    assert browser.value(FITS)


def texts(page, selector):
    """Texts of the visible elements."""
    return page.value(
        f"[...document.querySelectorAll('{selector}')].filter(e => e.offsetParent)"
        ".map(e => e.textContent)"
    )


def test_answer(page, server, photos):
    path = photos.listed()[0][1]
    page.choose("#choose", path)
    page.until(SHOWS + "'result'")
    answer = server.send(path.read_bytes()).json
    levels, best = answer["levels"], answer["best"]
    assert texts(page, "#path .level") == [one["level"] for one in levels][::-1]
    assert texts(page, "#path .class") == [one["predicted"] for one in levels][::-1]
    assert texts(page, "#best .name") == [one["path"][0] for one in best]
    assert texts(page, "#best .up") == [" · ".join(one["path"][1:]) for one in best]
    shares = []
    for level in levels[::-1]:
        shares += [level["probability"]] if "probability" in level else []
        shares += [level["from_fine"]] if level is not levels[0] else []
    shares = [share for share in shares if share is not None]
    widths = page.value(
        "[...document.querySelectorAll('#path .fill')].map(e => e.offsetWidth / "
        "e.parentNode.offsetWidth)"
    )
    assert len(widths) == len(shares)
    np.testing.assert_allclose(widths, shares, atol=0.02)
    assert texts(page, "#path .bar span")[0] == f"{100 * shares[0]:.1f} %"
    assert (texts(page, "#disagree") == []) == (answer["agree"] is not False)
    assert page.value("document.getElementById('shown').naturalWidth") > 0
    assert page.errors == []


def test_tiles_show_training_images(page, photos, tmp_path):
    """Each candidate's tile shows its class: its colors are those of its training image."""
    page.choose("#choose", photos.listed()[0][1])
    page.until(SHOWS + "'result'")
    page.until("performance.getEntriesByName(location.origin + '/examples.jpg').length > 0")
    page.picture(tmp_path / "page.png")
    shot = cv2.imread(str(tmp_path / "page.png")).astype(float)
    boxes = page.value(
        "[...document.querySelectorAll('.tile')].map(e => {const r = e.getBoundingClientRect();"
        "return [r.x + scrollX, r.y + scrollY, r.width, r.height]})"
    )
    names, rows = texts(page, "#best .name"), sorted(photos.listed("train"))
    first = {}
    for _, path, label in rows:
        first.setdefault(f"kind {label}", cv2.imread(str(path)))
    assert len(boxes) == len(names) == 4
    for name, (x, y, width, height) in zip(names, boxes):
        inner = [round(x) + 8, round(y) + 8, round(width) - 16, round(height) - 16]
        seen = shot[inner[1] : inner[1] + inner[3], inner[0] : inner[0] + inner[2]]
        share = 8 / width
        errors = {}
        for other, image in first.items():
            height, width_ = image.shape[:2]
            cut = image[
                round(share * height) : round((1 - share) * height),
                round(share * width_) : round((1 - share) * width_),
            ]
            cut = cv2.resize(cut, seen.shape[1::-1], interpolation=cv2.INTER_AREA)
            errors[other] = np.abs(seen - cut).mean()
        assert min(errors, key=errors.get) == name and errors[name] < 12, errors


def test_dropped(page, photos):
    page.drag("#drop", photos.listed()[1][1])
    page.until(SHOWS + "'result'")
    assert texts(page, "#name") == [photos.listed()[1][1].name]


def test_errors(page, photos, tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    page.choose("#choose", tmp_path / "text.jpg")
    page.until(SHOWS + "'error'")
    assert texts(page, "#error") == ["Not an image: neither JPEG, PNG, GIF, WebP, BMP nor TIFF."]
    assert texts(page, "#result") == texts(page, "#status") == []
    (tmp_path / "large.jpg").write_bytes(bytes(300_000))
    page.choose("#choose", tmp_path / "large.jpg")
    page.until("document.getElementById('error').textContent.includes('larger')")
    assert texts(page, "#error") == ["The photograph is larger than 0.25 MB."]
    page.choose("#take", photos.listed()[0][1])  # a right one after that
    page.until(SHOWS + "'result'")
    assert texts(page, "#error") == []


@pytest.mark.parametrize(
    "agree, own, says",
    [
        (True, None, []),
        (None, None, []),
        (False, "x", ["The levels' classifiers disagree: the classifier of group prefers x."]),
        (False, None, ["The levels' classifiers disagree."]),
        (True, "x", ["The decision differs from what the classifiers prefer: the classifier of "
                     "group prefers x."]),
    ],
)  # fmt: skip
def test_disagreement(browser, server, agree, own, says):
    browser.visit(server.address, WIDTHS[0])
    browser.until(SHOWS + "'status'")
    levels = [dict(level="kind", predicted="a", own="a"), dict(level="group", predicted="b")]
    levels[1]["own"] = own
    answer = json.dumps(dict(levels=levels, agree=agree))
    browser.value(f"showDisagreement({answer}), state('result'), 1")
    assert texts(browser, "#disagree") == says


def test_long_and_hostile_names(page, server, photos):
    """Texts of the answer are shown as text, however long, within the width."""
    name = "<img src=x onerror=alert(1)>" + 200 * "W"
    facts = server.ask("GET", "/model").json
    answer = server.send(photos.listed()[0][1].read_bytes()).json
    for one in answer["levels"]:
        one.update(predicted=name, own=None)
    for one in answer["best"]:
        one["path"] = [name] * len(one["path"])
    page.value(
        f"showPath({json.dumps(answer)}), showBest({json.dumps(answer)}), state('result'), 1"
    )
    assert texts(page, "#path .class") == [name] * len(facts["levels"])
    assert page.value("document.querySelectorAll('main img').length") == 1
    assert page.value(FITS)


def test_server_is_gone(browser, photos, tmp_path):
    with served.serve(tmp_path, "--solver", photos.solver) as one:
        browser.visit(one.address, WIDTHS[0])
        browser.until(SHOWS + "'status'")
        assert one.stop() == 0
        browser.choose("#choose", photos.listed()[0][1])
        browser.until(SHOWS + "'error'")
        assert "does not answer" in texts(browser, "#error")[0]
    browser.requests.clear()
