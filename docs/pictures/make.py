#!/usr/bin/env python3
"""Makes the pictures of this folder again: docs/pictures/make.py TIELINE

TIELINE is the program, for example target/debug/tieline. Needs node and chromium, as the tests do.
"""

import html
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
BROWSER = HERE.parent.parent / "fixtures" / "node" / "browser.js"
TOKEN = "a-token-for-the-pictures"


def picture_of_status(text):
    """Draws the text of a terminal as SVG."""
    lines = text.rstrip("\n").split("\n")
    lines = ["$ tieline status"] + lines
    width, height = max(map(len, lines)) * 7.25 + 32, len(lines) * 18 + 28
    rows = "\n".join(
        f'<text x="16" y="{26 + 18 * number}" xml:space="preserve">{html.escape(line)}</text>'
        for number, line in enumerate(lines)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" '
        f'viewBox="0 0 {width:.0f} {height}">\n'
        '<rect width="100%" height="100%" rx="8" fill="#15181b"/>\n'
        '<g fill="#e4e7ea" font-family="ui-monospace, Menlo, Consolas, monospace" font-size="12">\n'
        f"{rows}\n</g>\n</svg>\n"
    )


def main(tieline):
    with tempfile.TemporaryDirectory() as place:
        environment = {**os.environ, "XDG_RUNTIME_DIR": place, "TIELINE_TOKEN": TOKEN}
        socket = f"unix:{place}/tieline/agent.sock"
        os.mkdir(f"{place}/tieline", 0o700)
        server = subprocess.Popen(
            [tieline, "serve", "--listen", socket, "--listen", "http://127.0.0.1:0"],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )
        site = [server.stdout.readline().strip() for _ in range(2)][1]
        client = subprocess.Popen(
            [tieline, "connect", socket],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        call = {"jsonrpc": "2.0", "id": 1, "method": "add", "params": [2, 3]}
        client.stdin.write(json.dumps(call) + "\n")
        client.stdin.flush()
        client.stdout.readline()
        url = subprocess.run(
            [tieline, "status", "--url"], env=environment, capture_output=True, text=True, check=True
        ).stdout.strip()
        example = 'await until(() => document.querySelector("#state.connected")); example.click(); form.requestSubmit();'
        commands = [
            ["open", url],
            ["run", f"{example} await until(() => document.querySelectorAll('li.in').length === 1)"],
            ["run", "text.value = JSON.stringify({ jsonrpc: '2.0', id: 2, method: 'echo', params: { hello: 'world' } });"
                    "form.requestSubmit(); await until(() => document.querySelectorAll('li.in').length === 2);"
                    "text.value = '{\"jsonrpc\": \"2.0\", \"id\": 3,'; text.dispatchEvent(new Event('input'))"],
            ["look", 640, 300, "light", str(HERE / "page.png")],
        ]
        browser = subprocess.run(
            ["node", BROWSER], input="".join(json.dumps(it) + "\n" for it in commands), text=True,
            capture_output=True, check=True,
        )
        if "error" in browser.stdout:
            sys.exit(browser.stdout)
        status = subprocess.run(
            [tieline, "status"], env=environment, capture_output=True, text=True, check=True
        ).stdout
        # The directory, the port and the process IDs differ each time.
        status = status.replace(place, "/run/user/1000").replace(site, "http://127.0.0.1:8080")
        status = re.sub(r"of \d+ MiB", "of 2048 MiB", status)
        (HERE / "status.svg").write_text(picture_of_status(status))
        client.stdin.close()
        client.wait()
        server.terminate()
        server.wait()


main(*sys.argv[1:])
