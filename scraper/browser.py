"""A headless browser for pages that scripts fill: it reaches one site only and loads no pictures.

It needs the extra `dynamic`, so only a spider that uses it imports this module.
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

from scraper.middlewares import OTHER_HOST, same_site

EXECUTABLES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SKIPPED_TYPES = {"image", "media", "font"}
REQUIRED_TYPES = {"document", "script", "xhr", "fetch"}  # without one of these a page may stay empty
BLOCKED = "ERR_BLOCKED_BY_CLIENT"  # Chromium's error for a request that this module aborts
HTTP_STATUS = "performance.getEntriesByType('navigation')[0].responseStatus"
# A list may be filled item by item: it is complete when nothing has been added for half a second.
WAIT_UNTIL_IDLE = """([container, limit]) => new Promise(done => {
    let timer = setTimeout(done, 500);
    setTimeout(done, limit);
    new MutationObserver(() => { clearTimeout(timer); timer = setTimeout(done, 500); })
        .observe(document.querySelector(container), {childList: true, subtree: true});
})"""


class NotFilledError(DownloadTimeoutError):
    """A page's scripts failed, or did not fill it in time."""


class NoBrowserError(Exception):
    """The browser does not start."""


class Browser(ScrapyPlaywrightDownloadHandler):
    """The download handler of scrapy-playwright; it raises Scrapy's own errors, which Scrapy retries."""

    async def download_request(self, request: Request) -> Response:
        """Loads a page in the browser, or with Scrapy itself where the request does not need a browser.

        Raises:
            NoBrowserError: the browser does not start.
            NotFilledError: the page's scripts did not fill it.
            DownloadFailedError: the browser could not load the page.
            DownloadCancelledError: the page is larger than `download_maxsize`.
            IgnoreRequest: the page leads to another host, or is a file.
        """
        try:
            response: Response = await super().download_request(request)
        except TimeoutError as error:
            raise NotFilledError(error.message) from None
        except Error as error:
            if error.message.startswith("BrowserType.launch"):
                raise NoBrowserError(error.message) from None
            if BLOCKED in error.message:
                self._crawler.spider.record_failure(request.url, OTHER_HOST)
                raise IgnoreRequest(OTHER_HOST) from None
            raise DownloadFailedError(error.message) from None
        except RuntimeError as error:  # the page turned out to be a download
            raise IgnoreRequest("a file, not a page") from error
        if request.meta.get("playwright") and len(response.body) > request.meta["download_maxsize"]:
            raise DownloadCancelledError(f"page of {len(response.body)} bytes")
        return response


def executable() -> str | None:
    """Returns the path of the system's Chromium or Chrome, or None where there is none."""
    return next((path for name in EXECUTABLES if (path := shutil.which(name))), None)


def settings(site: str, current: BaseSettings) -> dict[str, Any]:
    """Returns the Scrapy settings of a spider whose pages are loaded by a browser.

    Args:
        site: a URL of the site; the browser loads nothing from elsewhere.
        current: the settings so far.
    """
    proxy = _proxy(site)
    host = str(urlsplit(proxy["server"] if proxy else site).hostname)  # the host that the browser connects to
    alias = f"www.{host}" if host == host.removeprefix("www.") else host.removeprefix("www.")
    return {
        "DOWNLOAD_HANDLERS": {**current.getdict("DOWNLOAD_HANDLERS"), "http": Browser, "https": Browser},
        "PLAYWRIGHT_ABORT_REQUEST": partial(_is_blocked, site=site),
        "PLAYWRIGHT_DEFAULT_NAVIGATION_TIMEOUT": 1000 * current.getfloat("DOWNLOAD_TIMEOUT"),
        "PLAYWRIGHT_DOWNLOAD_TIMEOUT": 1000,  # ms, for a page that turns out to be a file
        "PLAYWRIGHT_MAX_PAGES_PER_CONTEXT": 1,
        "PLAYWRIGHT_LAUNCH_OPTIONS": {
            "executable_path": executable(),
            # Neither a page nor Chromium itself can resolve the name of another host.
            "args": [
                "--disable-gpu",
                "--no-proxy-server",  # a page's context sets its own proxy
                f"--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE {host}, EXCLUDE {alias}",
            ],
            "ignore_default_args": ["--disable-popup-blocking"],
            "chromium_sandbox": getattr(os, "geteuid", lambda: 1)() != 0,  # it does not start as root
            **dict.fromkeys(("handle_sigint", "handle_sigterm", "handle_sighup"), False),  # Scrapy closes it
        },
    }


def meta(site: str, current: BaseSettings, *, item: str, container: str) -> dict[str, Any]:
    """Returns the meta of a request for a page that scripts fill.

    Args:
        site: a URL of the site; the browser loads nothing from elsewhere.
        current: Scrapy's settings; RENDER_TIMEOUT is the time that scripts have, in seconds.
        item: CSS selector of the elements that scripts add.
        container: CSS selector of the element to which they add them.
    """
    timeout = 1000 * current.getfloat("RENDER_TIMEOUT")
    context = {"proxy": _proxy(site), "user_agent": current["USER_AGENT"], "accept_downloads": False}
    return {
        "playwright": True,
        "playwright_context_kwargs": context | {"service_workers": "block"},
        "playwright_page_init_callback": partial(_confine, site=site),
        "playwright_page_methods": [
            PageMethod(_wait_until_filled, site=site, item=item, container=container, timeout=timeout)
        ],
    }


def _proxy(site: str) -> dict[str, str] | None:
    """Returns the proxy that the environment names, which Scrapy uses too, in Playwright's form."""
    url = urlsplit(site)
    address = getproxies().get(url.scheme)
    if not address or proxy_bypass(str(url.hostname)):
        return None
    proxy = urlsplit(address if "://" in address else f"http://{address}")
    server = {"server": f"{proxy.scheme}://{proxy.hostname}:{proxy.port or 80}"}
    if not proxy.username:
        return server
    return server | {"username": unquote(proxy.username), "password": unquote(proxy.password or "")}


def _is_blocked(request: BrowserRequest, *, site: str) -> bool:
    return request.resource_type in SKIPPED_TYPES or not same_site(request.url, site)


async def _confine(page: Page, request: Request, *, site: str) -> None:
    """Blocks a page's redirects and web sockets to other hosts, which Playwright's abort rule does not cover."""
    session = await page.context.new_cdp_session(page)

    async def decide(event: dict[str, Any]) -> None:
        decision: dict[str, Any] = {"requestId": event["requestId"]}
        with suppress(Error):  # the page was closed
            if same_site(event["request"]["url"], site):
                await session.send("Fetch.continueRequest", decision)
            else:
                await session.send("Fetch.failRequest", decision | {"errorReason": "BlockedByClient"})

    session.on("Fetch.requestPaused", decide)
    await session.send("Fetch.enable")
    await page.route_web_socket("**/*", _never_connect)


def _never_connect(socket: WebSocketRoute) -> None:
    """Does not connect a web socket to its server."""


async def _wait_until_filled(page: Page, *, site: str, item: str, container: str, timeout: float) -> None:
    """Waits until scripts have filled a page, or `timeout` ms if it stays empty without an error.

    Raises:
        TimeoutError: the page stays empty and a script or its data failed, or the container is missing.
    """
    if await page.evaluate(HTTP_STATUS) != 200:  # Scrapy handles the status
        return
    try:
        await page.wait_for_selector(f"{container} {item}", state="attached", timeout=timeout)
        await page.evaluate(WAIT_UNTIL_IDLE, [container, timeout])
    except TimeoutError:
        if not await page.query_selector(container) or await _has_failed(page, site):
            raise


async def _has_failed(page: Page, site: str) -> bool:
    """Tells whether a script of the page raised an error, or a required request to its site failed."""
    required = [
        request
        for request in await page.requests()
        if request.resource_type in REQUIRED_TYPES and same_site(request.url, site)
    ]
    responses = [request.existing_response for request in required if BLOCKED not in str(request.failure)]
    return bool(await page.page_errors()) or any(response is None or response.status >= 400 for response in responses)
