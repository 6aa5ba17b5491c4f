"""The page in a real browser."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from edge_agent.clock import SECOND
from edge_agent.health import ReaderCounts, SetAside, SinkHealth, State
from edge_agent.model import Quality
from edge_agent.outbox import Aside
from edge_agent.sinks import mqtt_answers
from edge_agent.sinks.influx_wire import ADVICE
from edge_agent.web.app import WebServer, create_app
from tests.web.conftest import Serve
from tests.web.plant import (
    CLINKER,
    GAP,
    KILN,
    KILN_ROW,
    NOON,
    STORE,
    alarm,
    block,
    energy_row,
    kiln_rows,
    small_plant,
)

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(60),  # the first test starts a browser, slow on a loaded box
]


class Tab:
    """A page of the browser with everything that it asked for and complained of."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda r: self.requests.append(r.url))
        page.on("pageerror", lambda e: self.complaints.append(str(e)))
        page.on(
            "console",
            lambda m: self.complaints.append(m.text) if m.type in {"error", "warning"} else None,
        )

    async def open(self, address: str) -> Page:
        await self.page.goto(address)
        await self.page.wait_for_selector("#kpis article")
        return self.page


@pytest_asyncio.fixture(loop_scope="module")
async def tab(browser: Browser) -> AsyncIterator[Tab]:
    context = await browser.new_context(viewport={"width": 1280, "height": 800}, locale="zh-CN")
    yield Tab(await context.new_page())
    await context.close()


def live(name: str) -> str:
    return f'[data-stream="em-kiln/raw"][data-tag="{name}"]'


def kpi(stream: str, column: str, *, running: bool = False) -> str:
    flag = str(running).lower()
    return f'[data-stream="{stream}"][data-column="{column}"][data-running="{flag}"]'


async def attribute(page: Page, selector: str, name: str) -> str:
    found = await page.locator(selector).get_attribute(name)
    assert found is not None
    return found


async def test_the_page_has_every_kpi_and_live_value_in_full(serve: Serve, tab: Tab) -> None:
    plant = small_plant()
    page = await tab.open(await serve(plant))

    for name, value in KILN_ROW.items():
        assert json.loads(await attribute(page, live(name), "data-value")) == value
    for running in (False, True):
        for kind in ("clinker", "packer", "kiln-stack"):
            for window in ("1min", "15min", "1h"):
                stream = f"{kind}/{window}"
                blocks = plant.open if running else [plant.live.last(stream)]
                row = next(b for b in blocks if b is not None and b.schema.stream == stream)
                for column in (t.name for t in row.schema.tags):
                    shown = await attribute(
                        page, kpi(stream, column, running=running), "data-value"
                    )
                    assert json.loads(shown) == float(row[column][0]), (stream, column)
    closed = kpi("clinker/15min", "intensity")
    assert await attribute(page, closed, "data-time") == str(NOON + 30 * 60 * SECOND)
    assert await page.locator(closed).inner_text() == "101.23"


async def test_nothing_leaves_the_origin_and_nothing_complains(serve: Serve, tab: Tab) -> None:
    address = await serve(small_plant())
    page = await tab.open(address)
    await page.get_by_role("button", name="EN").click()
    await asyncio.sleep(1.2)

    assert tab.requests
    assert all(url.startswith(f"{address}/") for url in tab.requests), tab.requests
    assert tab.complaints == []
    answer = await page.request.get(address)
    assert "default-src 'self'" in answer.headers["content-security-policy"]


async def test_the_language_switches_and_is_remembered(serve: Serve, tab: Tab) -> None:
    page = await tab.open(await serve(small_plant()))
    await expect(page.locator("h2").first).to_have_text("关键指标")
    await expect(page.locator("#kpi-clinker thead").first).to_contain_text("单位产品综合能耗")
    dust = '#device-cems-kiln tr:has([data-tag="dust"]) .quality'
    await expect(page.locator(dust)).to_have_text("▲ 存疑 · 超量程")

    await page.get_by_role("button", name="EN").click()
    await expect(page.locator("#kpi-clinker thead").first).to_contain_text("energy per tonne")
    await expect(page.locator(dust)).to_have_text("▲ uncertain · out of range")
    await page.reload()

    await expect(page.locator("h2").first).to_have_text("Key figures")
    assert await page.locator("html").get_attribute("lang") == "en"


async def test_an_english_browser_gets_english_without_any_chinese_label(
    serve: Serve, browser: Browser
) -> None:
    context = await browser.new_context(locale="en-GB")
    page = await Tab(await context.new_page()).open(await serve(small_plant()))

    words = await page.locator("main").inner_text()
    await context.close()

    assert "live values" in words.lower()
    assert [c for c in words if "\u4e00" <= c <= "\u9fff"] == []


async def test_the_open_window_is_marked_and_says_how_much_has_passed(
    serve: Serve, tab: Tab
) -> None:
    page = await tab.open(await serve(small_plant()))

    row = page.locator("#kpi-clinker tr.running[data-window='1h']").first
    await expect(row.locator(".tagged")).to_have_text("进行中")
    await expect(row).to_contain_text("61 %")  # 37 of 60 minutes
    await expect(row).to_contain_text("覆盖率 61.7 %")
    closed = page.locator("#kpi-clinker tr.closed[data-window='1h']").first
    await expect(closed).not_to_contain_text("进行中")
    await expect(closed).to_contain_text("11:00–12:00")


async def test_a_change_reaches_the_page_within_a_second(serve: Serve, tab: Tab) -> None:
    plant = small_plant()
    page = await tab.open(await serve(plant))
    plant.clock.now_ns += 60 * SECOND
    now = plant.clock.wall_ns()

    plant.live.put(block(KILN, now, KILN_ROW | {"active_power": 2500.0625}))
    end = NOON + 38 * 60 * SECOND
    plant.live.put(block(CLINKER["1min"], end, energy_row(3.3, 98.7654321)))

    await expect(page.locator(live("active_power"))).to_have_attribute(
        "data-value", "2500.0625", timeout=1000
    )
    closed = page.locator(kpi("clinker/1min", "intensity"))
    await expect(closed).to_have_attribute("data-value", "98.7654321", timeout=1000)
    await expect(closed).to_have_attribute("data-time", str(end))


async def test_a_value_that_turns_bad_shows_no_number(serve: Serve, tab: Tab) -> None:
    plant = small_plant()
    page = await tab.open(await serve(plant))
    await expect(page.locator(live("active_power"))).to_have_text("2,481.3")

    bad = {"active_power": Quality.BAD_NO_ANSWER}
    plant.live.put(block(KILN, plant.clock.wall_ns(), KILN_ROW, bad))
    end = NOON + 37 * 60 * SECOND
    gone = {"intensity": Quality.BAD_MISSING}
    plant.live.put(block(CLINKER["1min"], end, energy_row(3.3, 98.7), gone))

    power = page.locator(live("active_power"))
    await expect(power).to_have_text("—")
    await expect(power).to_have_attribute("data-value", "null")
    await expect(power).to_have_attribute("data-quality", "129")
    word = page.locator('#device-em-kiln tr:has([data-tag="active_power"]) .quality')
    await expect(word).to_have_text("✕ 无效 · 无应答")
    closed = page.locator(kpi("clinker/1min", "intensity"))
    await expect(closed).to_have_attribute("data-value", "null")
    await expect(closed).to_have_text("—✕")


async def test_a_value_that_is_no_longer_updated_is_called_stale(serve: Serve, tab: Tab) -> None:
    plant = small_plant()
    page = await tab.open(await serve(plant))
    power = page.locator(live("active_power"))
    await expect(power).to_have_attribute("data-stale", "false")

    plant.clock.now_ns += 300 * SECOND  # five minutes in which nothing came

    await expect(power).to_have_attribute("data-stale", "true")
    row = page.locator('#device-em-kiln tr:has([data-tag="active_power"])')
    await expect(row).to_contain_text("◷ 过时")
    await expect(row).to_contain_text("5 min")
    await expect(page.locator("#kpi-clinker tr.closed[data-window='1min']").first).to_contain_text(
        "过时"
    )
    await expect(page.locator("#complete")).to_contain_text("0/13")


async def test_a_lost_connection_is_announced_and_comes_back(tab: Tab) -> None:
    plant = small_plant()
    server = WebServer()
    address = await server.start(create_app(plant.sources()), "127.0.0.1:0")
    page = await tab.open(f"http://{address}")
    await expect(page.locator("#banner")).to_be_hidden()

    await server.stop()
    await expect(page.locator("#banner")).to_be_visible()
    await expect(page.locator(live("active_power"))).to_have_attribute("data-stale", "true")

    plant.live.put(block(KILN, plant.clock.wall_ns(), KILN_ROW | {"active_power": 1.5}))
    again = WebServer()
    await again.start(create_app(plant.sources()), address)
    try:
        await expect(page.locator("#banner")).to_be_hidden(timeout=10_000)
        await expect(page.locator(live("active_power"))).to_have_attribute("data-value", "1.5")
    finally:
        await again.stop()


async def test_names_from_the_plant_are_shown_as_text_never_as_markup(
    serve: Serve, tab: Tab
) -> None:
    plant = small_plant()
    plant.health.faults["disk"] = "<img src=x onerror=alert(1)>"
    page = await tab.open(await serve(plant))

    await expect(page.locator("#faults")).to_contain_text("<img src=x")
    assert await page.locator("#faults img").count() == 0
    await expect(page.locator("#health")).to_contain_text("需要处理")


@pytest.mark.parametrize("lang", ["zh-CN", "en-GB"])
@pytest.mark.parametrize("width", [1280, 390, 360])
async def test_the_page_is_never_wider_than_the_screen(
    serve: Serve, browser: Browser, width: int, lang: str
) -> None:
    context = await browser.new_context(viewport={"width": width, "height": 800}, locale=lang)
    page = await Tab(await context.new_page()).open(await serve(small_plant()))

    wide = await page.evaluate("document.documentElement.scrollWidth")
    await context.close()

    assert wide <= width


async def test_backlog_is_shown_for_each_sink(serve: Serve, tab: Tab) -> None:
    page = await tab.open(await serve(small_plant()))

    broker = page.locator('[data-sink="broker"]')
    for name, rows in {"lag": 1007, "delivered": 4000, "refused": 3, "dropped": 10}.items():
        await expect(broker.locator(f'[data-count="{name}"]')).to_have_attribute(
            "data-value", str(rows)
        )
    await expect(broker).to_contain_text("中断 10 min")
    says = page.locator('[data-says="broker"]')
    await expect(says).to_contain_text("connection refused")
    await expect(says).to_contain_text("1,007 行保存在本机，恢复后自动补传，本机还可再存约 9 d")
    await expect(page.locator("#arrival")).to_have_text(
        "✕ broker 已中断 10 min · 拒收 3 行 · 丢弃 10 行"
    )
    await expect(says).to_contain_text("对方拒绝连接：服务未启动，或地址、端口不对 (connection")
    await expect(page.locator("header #arriving")).to_have_text(
        "✕ broker 已中断 10 min · 拒收 3 行 · 丢弃 10 行"
    )
    await expect(page.locator("#store")).to_contain_text("原始数据 191 MiB / 1.9 GiB（10.0 %）")


async def test_an_alarm_is_shown_until_it_is_normal_again(serve: Serve, tab: Tab) -> None:
    plant = small_plant()
    plant.open += [alarm("nox-near-limit", 1, 3), alarm("calm", 0, 2)]
    page = await tab.open(await serve(plant))

    shown = await page.locator('[data-alarm="nox-near-limit"]').inner_text()
    assert "未确认" in shown
    assert "95.50 mg/m³" in shown
    assert await page.locator('[data-alarm="calm"]').count() == 0

    plant.open[-2] = alarm("nox-near-limit", 0, 3)
    await page.wait_for_selector("#alarms", state="hidden", timeout=5000)
    assert tab.complaints == []


async def test_a_sink_takes_one_line_when_all_is_well(serve: Serve, tab: Tab) -> None:
    plant = small_plant()
    plant.health.sinks["broker"] = SinkHealth("broker", "mqtt", State.UP)
    plant.readers["broker"] = ReaderCounts(5020, 5000, 0, 20, 0)
    page = await tab.open(await serve(plant))

    await expect(page.locator("#arrival")).to_have_text("● 数据全部送达 · 无拒收 · 无丢弃")
    assert await page.locator("#sinks > table > tbody > tr:visible").count() == 2
    await expect(page.locator('[data-sink="broker"] button').first).to_be_disabled()


async def test_a_sink_that_refuses_rows_just_now_is_not_called_well(serve: Serve, tab: Tab) -> None:
    plant = small_plant()
    now = plant.clock.wall_ns()
    broker = SinkHealth("broker", "mqtt", State.UP, now - 900 * SECOND, last_refusal="denied")
    broker.refused_ns = now - 300 * SECOND
    plant.health.sinks["broker"] = broker
    page = await tab.open(await serve(plant))

    await expect(page.locator("#arrival")).to_have_text(
        "▲ broker 拒收部分数据 · 拒收 3 行 · 丢弃 10 行"
    )
    await expect(page.locator('[data-sink="broker"]')).to_contain_text("部分拒收")
    plant.clock.now_ns += 400 * SECOND  # it is over
    await expect(page.locator("#arrival")).to_have_text("● 数据正常送达 · 拒收 3 行 · 丢弃 10 行")


async def test_catching_up_tells_backlog_and_time_until_it_is_done(serve: Serve, tab: Tab) -> None:
    plant = small_plant()
    plant.readers["broker"] = ReaderCounts(1_300_040, 100_000, 0, 1_200_040, 0)
    broker = plant.health.sinks["broker"] = SinkHealth("broker", "mqtt", State.UP)
    broker.backlog, broker.behind_seconds, broker.remaining_seconds = 1_200_000, 72 * 3600.0, 845.0
    page = await tab.open(await serve(plant))
    says = page.locator('[data-says="broker"]')

    await expect(says).to_have_text(
        "正在补传历史积压 1,200,000 行，约需 14 min，实时数据照常送达（40 行在途）"
    )
    await expect(page.locator("#arrival")).to_contain_text("▲ broker 补传中")
    await page.get_by_role("button", name="EN").click()
    await expect(says).to_have_text(
        "catching up with a backlog of 1,200,000 rows, about 14 min left,"
        " live data arrives (40 rows on the way)"
    )
    plant.readers["broker"] = ReaderCounts(1_300_040, 1_300_000, 0, 40, 0)
    broker.backlog, broker.behind_seconds, broker.remaining_seconds = 0, 1.0, None
    await expect(says).to_be_hidden()


async def test_dropped_rows_open_below_their_sink_and_stay_open(serve: Serve, tab: Tab) -> None:
    plant = small_plant()
    plant.store = replace(STORE, dropped=(GAP,))
    page = await tab.open(await serve(plant))
    button = page.locator('[data-sink="broker"] [data-count="dropped"]')

    await button.click()

    opened = page.locator('[data-list="broker"]')
    await expect(opened).to_contain_text("em-kiln/raw")
    await expect(opened).to_contain_text("10/05 11:00:00 – 11:00:07")
    await expect(opened).to_contain_text("存储空间已满")
    await expect(opened).to_contain_text("缺口标记待送")
    await expect(opened).to_contain_text("显示最近 8 行，共 10 行")
    plant.store = replace(STORE, dropped=(GAP, replace(GAP, rows=2, told=True)))
    plant.readers["broker"] = ReaderCounts(5022, 4000, 3, 1007, 12)
    await expect(opened).to_contain_text("已向该去向送达缺口标记")
    await expect(button).to_have_attribute("aria-expanded", "true")
    await button.click()
    await expect(opened).to_be_hidden()
    assert tab.complaints == []


async def test_what_sinks_say_of_their_peers_has_its_meaning_in_chinese(
    serve: Serve, tab: Tab
) -> None:
    page = await tab.open(await serve(small_plant()))
    answers = [*mqtt_answers._CONNECT.values(), *mqtt_answers._PARTING.values()]
    said = [*answers, *mqtt_answers._TLS.values(), *ADVICE.values()]
    reasons = (
        "async said => { const m = await import('/static/words.js'); return said.map(m.reason) }"
    )

    meant = await page.evaluate(reasons, said)

    bare = [text for text in meant if not "\u4e00" <= text[0] <= "\u9fff" and text[:3] != "TLS"]
    assert bare == []
    assert all(english in text for english, text in zip(said, meant, strict=True))


async def test_refused_rows_open_below_their_sink_as_text(serve: Serve, tab: Tab) -> None:
    plant = small_plant()
    nasty = "<img src=x onerror=alert(1)>"
    plant.put_aside = [Aside("broker", 7, NOON + 9 * SECOND, nasty, kiln_rows(3))]
    page = await tab.open(await serve(plant))
    opened = page.locator('[data-list="broker"]')

    await page.locator('[data-sink="broker"] [data-count="refused"]').click()

    await expect(opened).to_contain_text("10/05 12:00:00 – 12:00:02")
    await expect(opened).to_contain_text(nasty)
    await expect(opened).to_contain_text("active_power 2,481.3 kW")
    assert await opened.locator("img").count() == 0
    await expect(opened).to_contain_text("active_energy_import 1,234,568 kWh")
    await page.set_viewport_size({"width": 360, "height": 800})
    assert await page.evaluate("document.documentElement.scrollWidth") <= 360
    assert tab.complaints == []


async def test_a_log_that_was_set_aside_is_named_with_what_to_do(serve: Serve, tab: Tab) -> None:
    plant = small_plant()
    plant.store = replace(STORE, set_aside=(SetAside("log.db.corrupt-1", 12 << 20, NOON),))
    page = await tab.open(await serve(plant))

    aside = page.locator('[data-aside="log.db.corrupt-1"]')
    await expect(aside).to_contain_text("log.db.corrupt-1（12.0 MiB，2026/10/05 12:00:00）")
    await page.get_by_role("button", name="EN").click()
    await expect(aside).to_contain_text("a new one begun. Check the disk")
