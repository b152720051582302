"""Checks of an HTML page that needs nothing but itself."""

import base64
import re
from html.parser import HTMLParser


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def pictures_of(html: str) -> list[str]:
    """Check that all tags are closed and that nothing is requested; returns the pictures, as SVG."""
    tags = _Tags()
    tags.feed(html)
    assert tags.open == []
    assert not re.search(r"https?:|url\(|@import|<script|<link|<iframe", html)
    linking = [value for _, name, value in tags.attributes if name in ("src", "href", "srcset", "data", "action")]
    assert all(value.startswith("data:image/svg+xml;base64,") for value in linking)
    pictures = [base64.b64decode(value.partition(",")[2]).decode() for value in linking]
    for picture in pictures:
        assert picture.lstrip().startswith("<?xml")
        assert not re.search(r'(?:href|src)="(?!#)', picture), "a picture asks for something"
    return pictures
