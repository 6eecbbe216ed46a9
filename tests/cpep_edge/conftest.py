"""Fixtures: a browser for tests of the page, keys, and bundles that a test may change."""

import shutil
from pathlib import Path

import pytest

from cpep_edge.trust import PublicKey, SigningKey, generate_keys, load_public_key, load_signing_key


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium with the width of a phone."""
    webdriver = pytest.importorskip("selenium.webdriver")
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("needs a browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=500,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(driver)
    browser = webdriver.Chrome(options=options, service=service)
    yield browser
    browser.quit()
    service.stop()


@pytest.fixture
def own_home(tmp_path, monkeypatch) -> None:
    """Keep the records of trusted bundles and keys in the test's folder."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture(scope="session")
def secret(tmp_path_factory) -> SigningKey:
    file = tmp_path_factory.mktemp("keys") / "maker.pem"
    generate_keys(file)
    return load_signing_key(file)


@pytest.fixture(scope="session")
def public(secret) -> PublicKey:
    return load_public_key(secret.file.with_name("maker.pem.pub"))


@pytest.fixture
def bundle(tiny_bundle, tmp_path) -> Path:
    """A copy of the toy bundle, which the test may change or damage."""
    copy = tmp_path / "tiny.cpep"
    shutil.copytree(tiny_bundle, copy)
    return copy
