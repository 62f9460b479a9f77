"""In which namespace of the caches a tenant's calls are.

Everything that can tell whether a prefix was asked before is keyed by a call's `extra_key`: radix trees of engines and
workers, host tier and store, open pages, prefills that others wait for, answers computed ahead and pushed, and the
router's prefix index. So one rule at the door keeps tenants apart everywhere.
"""

import hashlib

from prefillshare.config.tenants import Tenant

MARK = "tenant:"
"""Begin of the namespaces of tenants; nobody else may give one that begins so."""
MARK_END = ":"
"""After the digest that says whose it is."""
_DIGEST_BYTES = 16


def make_mark(tenant: Tenant) -> str:
    """Return the begin of a tenant's namespaces, all of one length: what follows is the tenant's own.

    It is made of name and salt and tells neither.
    """
    secret = f"{tenant.name}\0{tenant.salt}".encode(errors="surrogatepass")
    return f"{MARK}{hashlib.blake2s(secret, digest_size=_DIGEST_BYTES).hexdigest()}{MARK_END}"


def is_tenants(extra_key: str | None) -> bool:
    """Whether a namespace is a tenant's."""
    return extra_key is not None and extra_key.startswith(MARK)
