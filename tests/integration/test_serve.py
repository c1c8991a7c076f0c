"""The page in a real browser and under bad visitors. ``VEA_SCREENSHOT=FILE`` writes the picture of the docs."""

from __future__ import annotations

import concurrent.futures
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("gradio", reason="needs the extra: pip install 'vea[serve]'")

PHOTO = "people_samples/images/astronaut.jpg"


def get(url: str) -> dict:
    with urllib.request.urlopen(url, timeout=30) as response:
        return json.load(response)


@pytest.fixture(scope="module")
def uploads(tmp_path_factory):
    """Where the page keeps what visitors send."""
    return tmp_path_factory.mktemp("page") / "uploads"


@pytest.fixture(scope="module")
def page(uploads, repository):
    """The address of a running ``vea serve`` with uploads up to 5 MB and a queue of 8."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    words = ["-m", "vea.commands.main", "serve", "--port", str(port), "--max-mb", "5", "--queue", "8", "--keep", "60"]
    log = uploads.parent / "log.txt"
    environment = {**os.environ, "GRADIO_TEMP_DIR": str(uploads)}
    with log.open("w") as out:
        process = subprocess.Popen([sys.executable, *words], cwd=repository, stdout=out, stderr=out, env=environment)
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 120
    try:
        while True:
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            try:
                assert get(f"{url}/health")["status"] == "ok"
                break
            except OSError:
                time.sleep(0.3)
        yield url
        assert process.poll() is None, log.read_text()
    finally:
        process.terminate()
        assert process.wait(30) in (0, -15), "SIGTERM ends it"
        assert "Traceback" not in log.read_text()


@pytest.fixture(scope="module")
def kept(page, uploads):
    """A function that returns the files of visitors that lie there."""
    return lambda: {path for path in uploads.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def photo(vea_data):
    path = vea_data / PHOTO
    if not path.is_file():
        pytest.skip(f"VEA_DATA has no {PHOTO}")
    return path


def ask(page: str, path: Path) -> tuple:
    from gradio_client import Client, handle_file

    client = Client(page, verbose=False, analytics_enabled=False)
    return client.predict(handle_file(str(path)), api_name="/look")


def test_a_photo_gets_an_answer_and_a_text_file_a_sentence(page, photo, tmp_path):
    told, picture, bars, faces, _, heat, evidence = ask(page, photo)
    assert bars["label"] in told and "1 face" in told
    assert picture and heat and len(faces["data"]) == 1
    assert [row[0] for row in evidence["data"]] == ["event", "event", "emotion", "cause", "cause"]
    assert evidence["data"][0][1].startswith("1 face: ") and evidence["data"][2][2] == "scene model"
    (tmp_path / "notes.jpg").write_text("not a picture")
    told, picture, *_ = ask(page, tmp_path / "notes.jpg")
    assert told.startswith("**notes.jpg**: ") and "not an image" in told and "/" not in told and picture is None


def test_bad_visitors_leave_it_alive(page, photo, tmp_path):
    from gradio_client import Client, handle_file

    large = tmp_path / "large.jpg"
    large.write_bytes(b"\xff" * 60_000_000)
    with pytest.raises(Exception, match=r"413|[Tt]oo [Ll]arge|exceeds|size"):
        ask(page, large)
    assert get(f"{page}/health")["status"] == "ok"

    def visit(_):
        try:
            client = Client(page, verbose=False, analytics_enabled=False)
            return client.predict(handle_file(str(photo)), api_name="/look")[0]
        except Exception as error:
            return f"refused: {error}"

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(visit, range(20)))
    good = [answer for answer in answers if answer.startswith("**")]
    assert len(good) >= 8 and len(set(good)) == 1, answers
    assert all(answer in good or "queue" in answer.lower() or "busy" in answer.lower() for answer in answers), answers
    assert get(f"{page}/health")["status"] == "ok"


def chromium(webdriver, *flags: str, height: int = 1150):
    """Returns a headless Chromium that asks nobody for updates."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    usual = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-sync"
    several = [*usual.split(), "disable-component-update", "disable-dev-shm-usage", f"window-size=1300,{height}"]
    for flag in [*several, *flags]:
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    return webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))


@pytest.fixture
def camera(photo, tmp_path):
    """A Chromium whose camera shows the photograph, and who lets every page have it."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    if shutil.which("chromedriver") is None:
        pytest.skip("needs chromium and chromedriver")
    reel = tmp_path / "camera.mjpeg"
    with Image.open(photo) as picture:
        picture.convert("RGB").resize((640, 640)).crop((0, 0, 640, 480)).save(tmp_path / "frame.jpg", quality=90)
    reel.write_bytes((tmp_path / "frame.jpg").read_bytes() * 10)
    fake = ["use-fake-ui-for-media-stream", "use-fake-device-for-media-stream"]
    browser = chromium(webdriver, *fake, f"use-file-for-fake-video-capture={reel}", height=1500)
    yield browser
    browser.quit()


def tab(browser, name: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    xpath = f"//button[@role='tab'][normalize-space()='{name}']"
    WebDriverWait(browser, 60).until(lambda b: any(e.is_displayed() for e in b.find_elements("xpath", xpath)))
    next(e for e in browser.find_elements("xpath", xpath) if e.is_displayed()).click()


def press(browser, css: str) -> None:
    """Clicks the first button there that can be clicked, once there is one."""
    from selenium.webdriver.support.ui import WebDriverWait

    def there(b):
        return next((e for e in b.find_elements("css selector", css) if e.is_displayed() and e.is_enabled()), None)

    WebDriverWait(browser, 60).until(there).click()


def asked(browser) -> list[str]:
    """Returns the addresses that a browser has asked since the last call."""
    log = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [entry["params"]["request"]["url"] for entry in log if entry["method"] == "Network.requestWillBeSent"]
    return [url for url in urls if url.startswith("http")]


@pytest.mark.skipif(shutil.which("chromedriver") is None, reason="needs chromium and chromedriver")
def test_a_visitor_uploads_a_photo_in_a_browser(page, photo):
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    browser = chromium(webdriver)
    try:
        browser.get(page)
        wait = WebDriverWait(browser, 60)
        field = wait.until(lambda b: b.find_element(By.CSS_SELECTOR, "#upload input[type=file]"))
        field.send_keys(str(photo))
        wait.until(lambda b: "1 face" in b.find_element(By.ID, "told").text)
        expression = browser.find_element(By.CSS_SELECTOR, "#told strong").text
        bars = browser.find_element(By.ID, "bars").text
        assert expression in bars and "%" in bars
        wait.until(lambda b: all(b.find_elements(By.CSS_SELECTOR, f"#{part} img") for part in ("picture", "why")))
        sizes = browser.execute_script(
            "return [...document.querySelectorAll('#picture img, #why img')].map(i => i.naturalWidth)"
        )
        assert len(sizes) == 2 and min(sizes) > 100, "both pictures are shown"
        assert expression in browser.find_element(By.ID, "faces").text
        urls = asked(browser)
        outside = [url for url in urls if not url.startswith(page)]
        assert urls and not outside, "the page asks no other server"
        if os.environ.get("VEA_SCREENSHOT"):
            browser.save_screenshot(os.environ["VEA_SCREENSHOT"])
    finally:
        browser.quit()


def shows(browser, video: str) -> bool:
    """Whether pictures of the camera have come: a press before that takes none."""
    script = "const v = document.querySelector(arguments[0]); return Boolean(v && v.readyState > 1 && v.videoWidth)"
    return browser.execute_script(script, video)


def test_a_moment_of_the_camera_in_a_browser_and_nothing_of_it_stays(page, camera, kept):
    from selenium.webdriver.support.ui import WebDriverWait

    wait = WebDriverWait(camera, 60)
    before = kept()
    camera.get(page)
    tab(camera, "Camera")
    press(camera, "#camera button")  # lets the camera in
    wait.until(lambda b: shows(b, "#camera video"))
    press(camera, "#camera button[aria-label='capture photo']")
    wait.until(lambda b: kept() - before)
    press(camera, "#look-camera")
    wait.until(lambda b: "1 face" in b.find_element("id", "told-camera").text)
    wait.until(lambda b: "scene model" in b.find_element("id", "evidence-camera").text)
    assert all(url.startswith(page) for url in asked(camera)), "the page asks no other server"
    camera.get("about:blank")
    wait.until(lambda b: not kept() - before)


def test_a_clip_of_the_camera_and_one_that_is_uploaded(page, camera, kept, vea_data):
    pytest.importorskip("av", reason="needs the extra: pip install 'vea[video]'")
    from selenium.webdriver.support.ui import WebDriverWait

    wait = WebDriverWait(camera, 60)
    before = kept()
    camera.get(page)
    tab(camera, "Video")
    press(camera, "#clip button[aria-label='Capture from camera']")
    press(camera, "#clip button")  # lets the camera in
    wait.until(lambda b: shows(b, "#clip video"))
    press(camera, "#clip button[aria-label='start recording']")
    time.sleep(2)
    press(camera, "#clip button[aria-label='start recording']")  # the same button ends it
    wait.until(lambda b: kept() - before)
    press(camera, "#watch")
    wait.until(lambda b: "1 person" in b.find_element("id", "watched").text)
    assert "happy" in camera.find_element("id", "rows").text and camera.find_elements("css selector", "#timeline svg")

    clip = vea_data / "video_sample/WolfgangLanger_Pexels.mp4"
    if clip.is_file():
        camera.refresh()
        tab(camera, "Video")
        wait.until(lambda b: b.find_elements("css selector", "#clip input[type=file]"))
        camera.find_element("css selector", "#clip input[type=file]").send_keys(str(clip))
        wait.until(lambda b: b.find_elements("css selector", "#clip video"))
        press(camera, "#watch")
        wait.until(lambda b: "95 rows" in b.find_element("id", "watched").text)
        wait.until(lambda b: "happy 100%" in b.find_element("id", "timeline").text)
        if os.environ.get("VEA_SCREENSHOT_VIDEO"):
            camera.save_screenshot(os.environ["VEA_SCREENSHOT_VIDEO"])
    assert all(url.startswith(page) for url in asked(camera)), "the page asks no other server"
    camera.get("about:blank")
    wait.until(lambda b: not kept() - before)
