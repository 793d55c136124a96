"""What the page shows: texts, and the items of a list."""

from __future__ import annotations


def texts(page, selector: str) -> list[str]:
    return [one.strip() for one in page.locator(selector).all_inner_texts()]


def ids(page, within: str = ".found") -> list[int]:
    return page.locator(f"{within} .card").evaluate_all("all => all.map(one => Number(one.dataset.item))")


def wait_for_ids(page, expected: list[int]) -> None:
    page.wait_for_function(
        "all => [...document.querySelectorAll('.found .card')].map(c => c.dataset.item).join() === all",
        arg=",".join(map(str, expected)),
    )
