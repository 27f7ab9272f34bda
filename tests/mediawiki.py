"""A real MediaWiki on loopback: Debian's package with SQLite and PHP's own web server, and a few pages on health."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

INSTALLED = Path("/usr/share/mediawiki")
LICENCE = "Creative Commons Attribution-ShareAlike 4.0"
LICENCE_URL = "https://creativecommons.org/licenses/by-sa/4.0/"

_SETTINGS = f"""
wfLoadExtension( "TextExtracts" );
wfLoadExtension( "Cite" );
$wgServer = isset( $_SERVER["HTTP_HOST"] ) ? "http://" . $_SERVER["HTTP_HOST"] : "http://127.0.0.1";
$wgArticlePath = "/index.php/$1";
$wgRightsText = "{LICENCE}";
$wgRightsUrl = "{LICENCE_URL}";
$wgJobRunRate = 0;
"""

_PAGES = {
    "Influenza": """
'''Influenza''', commonly known as the flu, is an infectious disease of the nose, throat and lungs.<ref>A book.</ref>
It is caused by viruses that spread through the air when people cough or sneeze.

{| class="wikitable"
! A table !! that no extract has
|}

== Symptoms ==
The illness begins suddenly with fever, chills, a dry cough and aching muscles. Most people are better after a week.

=== In children ===
Children may also have nausea and vomiting, which adults rarely have.

== Treatment ==
Rest and plenty of fluids are enough for most people. Antiviral drugs such as oseltamivir shorten the illness if they
are taken within two days.

== Prevention ==
A vaccine each autumn protects best. Washing hands with <b>soap</b> &amp; water helps, too (''p'' < 0.05 and n > 30).
<nowiki><script>alert("lung")</script></nowiki>

== See also ==
* [[Common cold]] has similar symptoms, treatment and prevention

== References ==
<references/>
""",
    "Flu": "#REDIRECT [[Influenza]]",
    "Common cold": """
The '''common cold''' is a mild infection of the nose and throat, caused by rhinoviruses. A sore throat comes first,
then a runny nose and a cough. There is no vaccine, and antibiotics do not help against it.
""",
    "Cold (disambiguation)": """
'''Cold''' may mean low temperature, or the [[Common cold]], an infection of the nose and throat with rhinoviruses.
""",
    "Hypertension": """
'''Hypertension''' is high blood pressure that lasts. It rarely causes complaints, but damages heart, brain and kidneys.

== Treatment ==
Less salt, more exercise and a lower weight reduce the pressure. Thiazide diuretics and ACE inhibitors are common drugs.
"""
    + "The pressure should be measured at home every morning. " * 60,
    "Überfunktion (日本語)": "A page on the '''thyroid''' whose title has letters of several alphabets, and brackets.",
}


@contextmanager
def mediawiki() -> Iterator[str]:
    """Install a wiki into a folder of its own, serve it, and give the address of its API."""
    php = shutil.which("php")
    if not php or not INSTALLED.is_dir():
        if os.environ.get("CI"):
            raise RuntimeError("There is no MediaWiki to test with. Run .ci/packages.")
        pytest.skip("Debian's mediawiki and php-cli are not installed, so there is no wiki to test with")
    with tempfile.TemporaryDirectory(prefix="rlhf-wiki-") as name:
        folder = Path(name)
        settings = folder / "LocalSettings.php"
        environ = {**os.environ, "MW_CONFIG_FILE": str(settings)}

        def run(script: str, *arguments: str) -> None:
            command = [php, INSTALLED / "maintenance" / script, *arguments]
            done = subprocess.run(command, env=environ, capture_output=True, text=True, cwd=folder)
            assert done.returncode == 0, f"{script} failed: {done.stdout} {done.stderr}"

        run(
            "install.php",
            *("--confpath", name, "--dbtype", "sqlite", "--dbpath", str(folder / "data"), "--dbname", "wiki"),
            *("--server", "http://127.0.0.1", "--scriptpath", "", "--lang", "en", "--skins", "Vector"),
            *("--pass", "a password of no value", "Health", "Admin"),
        )
        settings.write_text(settings.read_text() + _SETTINGS)
        for title, text in _PAGES.items():
            (folder / f"{title}.txt").write_text(text.strip())
        run("importTextFiles.php", "--bot", *(str(folder / f"{title}.txt") for title in _PAGES))
        run("rebuildtextindex.php")
        with _served(php, environ, folder / "log") as port:
            yield f"http://127.0.0.1:{port}/api.php"


@contextmanager
def _served(php: str, environ: dict[str, str], log: Path) -> Iterator[int]:
    with log.open("w") as output:
        command = [php, "-S", "127.0.0.1:0", "-t", str(INSTALLED)]
        server = subprocess.Popen(command, env=environ, stdout=output, stderr=output)
    try:
        started = None
        while not started:
            assert server.poll() is None, log.read_text()
            started = re.search(r"http://127\.0\.0\.1:([0-9]+)\) started", log.read_text())
        yield int(started.group(1))
    finally:
        server.kill()
        server.wait()
