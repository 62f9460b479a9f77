"""An environment that names proxies at which nobody answers, in every spelling that libraries read."""

_NOBODY = "127.0.0.1:9"
PROXIES = {
    **dict.fromkeys(("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"), f"http://{_NOBODY}"),
    **dict.fromkeys(("all_proxy", "ALL_PROXY"), f"socks5://{_NOBODY}"),
    "no_proxy": "example.com",
}
