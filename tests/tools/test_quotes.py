"""tools/studies/quotes.py: tables in pages follow the tables of studies."""

import pytest

from data_prep.common.errors import UserError
from tools.studies import quotes

SOURCE = r"""**A study**

cards, squeezenet

| variant | lambda | card | recall@1 ↑ | remarks |
|---|---|---|---|---|
| SM |  | 74.2 ± 0.6 | 63.2 ± 0.4 |  |
| OURS | 0.2 | **72.8 ± 2.6**\* | 60.3 ± 1.7 | not converged |
| OURS | 0.8 | 2.0 ± 0.1 | 1.0 ± 0.0 |  |

cards, squeezenet: difference from SM (of nothing)

| variant | card |
|---|---|
| OURS | -1.4 |
"""
PAGE = r"""# A page

<!-- results/table.md: cards, squeezenet -->
| some cards | recall@1 ↑ | card |
|---|---|---|
| SM | {0} | {1} |
| **OURS, 0.2** | - | {2} |

| another | table |
|---|---|
| SM | 1.0 |
"""
RIGHT = PAGE.format("63.2 ± 0.4", "74.2 ± 0.6", r"**72.8 ± 2.6**\*")


def renewed(folder, text):
    (folder / "results").mkdir(exist_ok=True)
    (folder / "results/table.md").write_text(SOURCE)
    (folder / "page.md").write_text(text)
    return quotes.renewed(folder / "page.md", folder)


@pytest.mark.parametrize("old", [("1", "2", "3"), ("63.2 ± 0.4", "74.2 ± 0.6", "72.8 ± 2.6")])
def test_figures_follow(tmp_path, old):
    assert renewed(tmp_path, PAGE.format(*old)) == (RIGHT, 1)
    assert renewed(tmp_path, RIGHT) == (RIGHT, 1)


def test_a_page_without_quotes_stays(tmp_path):
    text = "| a | table |\n|---|---|\n| SM | 1 |\n"
    assert renewed(tmp_path, text) == (text, 0)


@pytest.mark.parametrize(
    "old, new, says",
    [
        ("results/table.md", "other/table.md", "other/table.md not found"),
        ("squeezenet -->", "googlenet -->", "names a part that is not there"),
        ("| card |", "| cards |", "has a column 'cards', which is not there"),
        ("**OURS, 0.2**", "OURS", "has a row 'OURS', which 2 rows there match"),
        ("**OURS, 0.2**", "OURS, 0.4", "has a row 'OURS, 0.4', which 0 rows there match"),
    ],
)
def test_what_is_not_there_is_named(tmp_path, old, new, says):
    with pytest.raises(UserError) as error:
        renewed(tmp_path, RIGHT.replace(old, new))
    assert says in str(error.value)
