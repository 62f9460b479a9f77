"""Why no snapshot could be had: one sentence each, with the fix."""


class FeedError(Exception):
    """The deployment's state could not be read."""


class UnreachableError(FeedError):
    """Nothing answers at the address, or it stopped answering."""


class RefusedError(FeedError):
    """The server wants another key."""


class ForeignServerError(FeedError):
    """Something answers that is no PrefillShare deployment, or one of another version."""
