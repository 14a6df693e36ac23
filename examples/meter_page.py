"""A page of an app's own that shows an account its usage meter.

    pip install "usageledger[gateway]"
    USAGELEDGER_GATEWAY_ALLOWED_ORIGINS=http://127.0.0.1:3000 usageledger up --port 8137
    export USAGELEDGER_GATEWAY_URL=http://127.0.0.1:8137 USAGELEDGER_KEY=ulk_…
    uvicorn meter_page:app --port 3000

The browser never sees the app's key. It asks the app's own backend for a token, because the backend
knows which user is signed in. A token is for one account, for reading only, and for a quarter of an
hour. The meter asks for the next one by itself.
"""

from __future__ import annotations

import os
from html import escape

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, PlainTextResponse

from usageledger import mint_account_token

app = FastAPI(title="An app with a usage meter")

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Your usage</title>
<script type="module" src="{gateway}/usage-meter.js"></script>
<usage-meter src="{gateway}" account="{account}" upgrade-url="/upgrade?plan={{plan}}"></usage-meter>
<script type="module">
  const meter = document.querySelector("usage-meter");
  meter.tokenProvider = async () => (await fetch("/usage-token", {{ method: "POST" }})).text();
</script>
</html>
"""


@app.get("/settings/usage")
def usage_page(request: Request) -> HTMLResponse:
    """The page that shows the meter."""
    gateway, account = os.environ["USAGELEDGER_GATEWAY_URL"], signed_in(request)
    return HTMLResponse(
        PAGE.format(gateway=escape(gateway, quote=True), account=escape(account, quote=True))
    )


@app.post("/usage-token")
def usage_token(request: Request) -> PlainTextResponse:
    """A token for the account of the signed-in user, and no other. No service is asked for it."""
    token = mint_account_token(os.environ["USAGELEDGER_KEY"], signed_in(request))
    return PlainTextResponse(token, headers={"Cache-Control": "no-store"})


def signed_in(request: Request) -> str:
    """Stands for the app's own sign-in."""
    return request.cookies.get("account", "acct_4821")
