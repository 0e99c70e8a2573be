"""A headless browser for pages that scripts fill: it reaches one site alone and loads no pictures.

Needs the extra `dynamic`, so nothing imports this module before a spider calls for it.
"""

import os
import shutil
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from playwright.async_api import Error, Page, TimeoutError, WebSocketRoute
from playwright.async_api import Request as BrowserRequest
from scrapy import Request
from scrapy.exceptions import DownloadCancelledError, DownloadFailedError, DownloadTimeoutError, IgnoreRequest
from scrapy.http import Response
from scrapy.settings import BaseSettings
from scrapy_playwright.handler import ScrapyPlaywrightDownloadHandler
from scrapy_playwright.page import PageMethod

from scraper.middlewares import ANOTHER_HOST, same_site

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
LEFT_OUT = {"image", "media", "font"}  # resource types
DATA = {"document", "script", "xhr", "fetch"}  # resource types without which a page may stay empty
BLOCKED = "ERR_BLOCKED_BY_CLIENT"  # Chromium's name for what is refused here
STATUS = "performance.getEntriesByType('navigation')[0].responseStatus"
# A list may be filled item by item: it is whole when nothing has come for half a second.
WAIT_UNTIL_IDLE = """([place, limit]) => new Promise(done => {
    let timer = setTimeout(done, 500);
    setTimeout(done, limit);
    new MutationObserver(() => { clearTimeout(timer); timer = setTimeout(done, 500); })
        .observe(document.querySelector(place), {childList: true, subtree: true});
})"""


class NotFilledError(DownloadTimeoutError):
    """A page's scripts did not fill it in time, or failed."""


class NoBrowserError(Exception):
    """The browser does not start."""


class Browser(ScrapyPlaywrightDownloadHandler):
    """The download handler of scrapy-playwright, with Scrapy's errors, which Scrapy retries."""

    async def download_request(self, request: Request) -> Response:
        """Has the browser load a page, or Scrapy itself what is not for the browser.

        Raises:
            NoBrowserError: the browser does not start.
            NotFilledError: the page's scripts did not fill it.
            DownloadFailedError: the browser could not load it.
            DownloadCancelledError: it is larger than a page may be.
            IgnoreRequest: it leads to another host, or is no page.
        """
        try:
            response: Response = await super().download_request(request)
        except TimeoutError as error:
            raise NotFilledError(error.message) from None
        except Error as error:
            if error.message.startswith("BrowserType.launch"):
                raise NoBrowserError(error.message) from None
            if BLOCKED in error.message:
                self._crawler.spider.note_failure(request.url, ANOTHER_HOST)
                raise IgnoreRequest(ANOTHER_HOST) from None
            raise DownloadFailedError(error.message) from None
        except RuntimeError as error:  # of a download
            raise IgnoreRequest("is a file, not a page") from error
        if request.meta.get("playwright") and len(response.body) > request.meta["download_maxsize"]:
            raise DownloadCancelledError(f"page of {len(response.body)} bytes")
        return response


def executable() -> str | None:
    """Returns the path of the system's Chromium or Chrome, or None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def settings(site: str, ours: BaseSettings) -> dict[str, Any]:
    """Returns what Scrapy has to be set to for a spider whose pages are loaded by a browser.

    Args:
        site: a URL of the site, beyond which nothing is loaded.
        ours: the settings so far.
    """
    reached = _proxy(site)
    host = str(urlsplit(reached["server"] if reached else site).hostname)  # that the browser itself talks to
    other = f"www.{host}" if host == host.removeprefix("www.") else host.removeprefix("www.")
    return {
        "DOWNLOAD_HANDLERS": {**ours.getdict("DOWNLOAD_HANDLERS"), "http": Browser, "https": Browser},
        "PLAYWRIGHT_ABORT_REQUEST": partial(_left_out, site=site),
        "PLAYWRIGHT_DEFAULT_NAVIGATION_TIMEOUT": 1000 * ours.getfloat("DOWNLOAD_TIMEOUT"),
        "PLAYWRIGHT_DOWNLOAD_TIMEOUT": 1000,  # until a page that turns out to be a file is given up
        "PLAYWRIGHT_MAX_PAGES_PER_CONTEXT": 1,
        "PLAYWRIGHT_LAUNCH_OPTIONS": {
            "executable_path": executable(),
            # Whatever a page tries, and whatever Chromium does on its own: no other host has an address.
            "args": [
                "--disable-gpu",
                "--no-proxy-server",  # pages have a proxy of their own
                f"--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE {host}, EXCLUDE {other}",
            ],
            "ignore_default_args": ["--disable-popup-blocking"],
            "chromium_sandbox": getattr(os, "geteuid", lambda: 1)() != 0,  # Chromium has none for root
            **dict.fromkeys(("handle_sigint", "handle_sigterm", "handle_sighup"), False),  # Scrapy closes it
        },
    }


def meta(site: str, ours: BaseSettings, *, item: str, place: str) -> dict[str, Any]:
    """Returns the meta of a request whose page scripts fill.

    Args:
        site: a URL of the site, beyond which nothing is loaded.
        ours: Scrapy's settings; RENDER_TIMEOUT is the seconds that scripts have.
        item: CSS selector of what scripts add.
        place: CSS selector of the element to which they add it.
    """
    timeout = 1000 * ours.getfloat("RENDER_TIMEOUT")
    context = {"proxy": _proxy(site), "user_agent": ours["USER_AGENT"], "accept_downloads": False}
    return {
        "playwright": True,
        "playwright_context_kwargs": context | {"service_workers": "block"},
        "playwright_page_init_callback": partial(_confine, site=site),
        "playwright_page_methods": [PageMethod(_filled, site=site, item=item, place=place, timeout=timeout)],
    }


def _proxy(site: str) -> dict[str, str] | None:
    """Returns the proxy that Scrapy, too, takes from the environment, in Playwright's form."""
    url = urlsplit(site)
    named = getproxies().get(url.scheme)
    if not named or proxy_bypass(str(url.hostname)):
        return None
    found = urlsplit(named if "://" in named else f"http://{named}")
    server = {"server": f"{found.scheme}://{found.hostname}:{found.port or 80}"}
    if not found.username:
        return server
    return server | {"username": unquote(found.username), "password": unquote(found.password or "")}


def _left_out(request: BrowserRequest, *, site: str) -> bool:
    return request.resource_type in LEFT_OUT or not same_site(request.url, site)


async def _confine(page: Page, request: Request, *, site: str) -> None:
    """Keeps a page on its site where Playwright's routes do not reach: redirects and web sockets."""
    session = await page.context.new_cdp_session(page)

    async def judge(event: dict[str, Any]) -> None:
        answer: dict[str, Any] = {"requestId": event["requestId"]}
        with suppress(Error):  # the page has been closed
            if same_site(event["request"]["url"], site):
                await session.send("Fetch.continueRequest", answer)
            else:
                await session.send("Fetch.failRequest", answer | {"errorReason": "BlockedByClient"})

    session.on("Fetch.requestPaused", judge)
    await session.send("Fetch.enable")
    await page.route_web_socket("**/*", _unconnected)


def _unconnected(socket: WebSocketRoute) -> None:
    """Leaves a web socket without a server."""


async def _filled(page: Page, *, site: str, item: str, place: str, timeout: float) -> None:
    """Waits until a page's scripts have filled it, or have had their time and done nothing wrong.

    Raises:
        TimeoutError: they have not, and a script or its data failed, or the place that they fill is missing.
    """
    if await page.evaluate(STATUS) != 200:  # for Scrapy to judge
        return
    try:
        await page.wait_for_selector(f"{place} {item}", state="attached", timeout=timeout)
        await page.evaluate(WAIT_UNTIL_IDLE, [place, timeout])
    except TimeoutError:
        if not await page.query_selector(place) or await _failed(page, site):
            raise


async def _failed(page: Page, site: str) -> bool:
    """Tells whether a script of the page raised an error, or what it asked of its site did not come."""
    wanted = [
        request for request in await page.requests() if request.resource_type in DATA and same_site(request.url, site)
    ]
    answers = [request.existing_response for request in wanted if BLOCKED not in str(request.failure)]
    return bool(await page.page_errors()) or any(answer is None or answer.status >= 400 for answer in answers)
