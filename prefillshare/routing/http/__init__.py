"""HTTP/1.1 towards the servers of a deployment: kept connections, and answers passed on as they come.

What a call costs the router is for the most part what its two legs cost. A general client makes cookies, redirects,
proxies, codecs and a URL of every request; workers need none of them. Here is what is left: connections that are kept,
a parser in C (httptools, on llhttp, which is strict about lengths and line ends), and one wake-up per piece.
"""
