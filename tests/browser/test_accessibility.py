"""Accessibility: keyboard, small screens, dark mode, reduced motion."""

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import DESKTOP, PHONE

FILES = {
    "a/Quarterly report with a very long name that goes on and on until it fits nowhere (final) (2).zip": b"z"
    * 1234567,
    "b/" + "unbroken" * 20 + ".txt": b"text",
    "c/photo.jpg": b"not really a picture",
}


def tab_to(page, target):
    """Press Tab until *target* has the focus."""
    for _ in range(40):
        page.keyboard.press("Tab")
        if target.evaluate("element => element === document.activeElement"):
            return
    raise AssertionError(f"{target} cannot be reached with Tab")


def test_everything_can_be_done_by_keyboard(page, live_app):
    """Tab, Enter, Space and Escape suffice to upload, share and delete; the focus is never lost."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    chooser = page.locator("#chooser")
    # Playwright registers the listener asynchronously; the requests of `tab_to` are sent after that.
    with page.expect_file_chooser() as choosing:
        tab_to(page, chooser)
        page.keyboard.press("Space")
    choosing.value.set_files({"name": "typed.txt", "mimeType": "text/plain", "buffer": b"typed"})
    expect(page.locator("#files .row")).to_contain_text("typed.txt")
    expect(chooser).to_be_focused()

    sharing = page.get_by_role("button", name="Share typed.txt")
    tab_to(page, sharing)
    page.keyboard.press("Enter")
    expect(page.get_by_role("radio", name="1 hour")).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("radio", name="1 day")).to_be_checked()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Copy")).to_be_focused()
    page.keyboard.press("Space")
    expect(page.get_by_role("button", name="Copied")).to_be_focused()
    page.keyboard.press("Escape")
    expect(sharing).to_be_focused()

    tab_to(page, page.get_by_role("button", name="Delete typed.txt"))
    page.keyboard.press("Space")
    expect(page.get_by_role("button", name="Cancel")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_text("No files yet")).to_be_visible()
    expect(page.get_by_role("heading", name="Files")).to_be_focused()
    assert live_app.leftovers() == []


def test_the_focus_is_always_visible(page, live_app):
    """Every element that Tab reaches has a focus ring."""
    live_app.storage.write("a/b.txt", b"1")
    page.reload()
    rings = []

    for _ in range(6):
        page.keyboard.press("Tab")
        rings.append(
            page.evaluate(
                """() => {
                    const focused = document.activeElement;
                    const shown = focused.id === "chooser" ? focused.nextElementSibling : focused;
                    const { outlineStyle, outlineWidth } = getComputedStyle(shown);
                    return [focused.tagName, outlineStyle, outlineWidth];
                }"""
            )
        )

    assert [tag for tag, *_ in rings][:5] == ["INPUT", "A", "A", "BUTTON", "BUTTON"]
    assert all(style == "solid" and width == "2px" for _, style, width in rings[:5])


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    "size", [PHONE, {"width": 320, "height": 568}, DESKTOP], ids=["phone", "small phone", "desktop"]
)
def test_the_page_fits_every_screen(open_browser, live_app, size, scheme, tmp_path):
    """Long names wrap, dialogs fit, and buttons are large enough for touch."""
    for path, content in FILES.items():
        live_app.storage.write(path, content)
    page = open_browser(viewport=size, color_scheme=scheme, has_touch=size != DESKTOP)
    page.goto(live_app.url)
    expect(page.locator("#files .row")).to_have_count(3)

    page.get_by_role("button", name="Share photo.jpg").click()
    page.get_by_role("button", name="Create link").click()
    expect(page.locator(".share-result")).to_be_visible()

    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    dialog = page.locator("#share-dialog").bounding_box()
    assert dialog["x"] >= 0
    assert dialog["x"] + dialog["width"] <= size["width"]
    page.keyboard.press("Escape")
    for button in page.locator(".row-actions button, .row-actions a").all():
        box = button.bounding_box()
        assert box["width"] >= 44
        assert box["height"] >= 44
        assert box["x"] + box["width"] <= size["width"]


LUMINANCE = """(element) => {
    const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    const luminance = (color) => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = color;
        canvas.fillRect(0, 0, 1, 1);
        const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data]
            .map((part) => part / 255)
            .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const background = (node) => {
        const color = getComputedStyle(node).backgroundColor;
        return color === "rgba(0, 0, 0, 0)" ? background(node.parentElement) : color;
    };
    return [luminance(getComputedStyle(element).color), luminance(background(element))];
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(open_browser, live_app, scheme):
    """At least 4.5 to 1, in light and in dark mode."""
    live_app.storage.write("a/b.txt", b"1")
    page = open_browser(color_scheme=scheme)
    page.goto(live_app.url)
    page.get_by_role("button", name="Share b.txt").click()
    page.get_by_role("button", name="Create link").click()
    expect(page.locator(".share-expiry")).not_to_be_empty()
    texts = (
        ".brand, .summary, .button:visible, .dropzone-hint, .row-name, .row-meta, .icon-button, .choice, .share-expiry"
    )

    contrasts = {}
    for element in page.locator("main, header, #share-dialog").locator(texts).all():
        text, behind = element.evaluate(LUMINANCE)
        contrasts[element.inner_text()] = (max(text, behind) + 0.05) / (min(text, behind) + 0.05)

    assert len(contrasts) >= 8
    assert {text: round(contrast, 1) for text, contrast in contrasts.items() if contrast < 4.5} == {}


def test_reduced_motion_disables_animations(open_browser, live_app):
    """No element has a transition or an animation."""
    live_app.storage.write("a/b.txt", b"1")
    page = open_browser(reduced_motion="reduce")
    page.goto(live_app.url)

    page.get_by_role("button", name="Share b.txt").click()

    moving = page.evaluate("document.getAnimations({ subtree: true }).length")
    durations = page.locator("*").evaluate_all(
        "all => [...new Set(all.map((element) => getComputedStyle(element).transitionDuration))]"
    )
    assert moving == 0
    assert durations == ["0s"]
