"""KV that went through the store's codec is the KV that went in: after a kill, answers are those from the engine's own
cache, in bfloat16, out of a memory tier that is too small and a disk tier behind it.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefillshare.config import load_deployment
from prefillshare.modules.deployment import resolve
from prefillshare.serving.plan.store import SHARED_MEMORY, plan_store
from prefillshare.store import KvStore, StoreIdentity, chain_keys
from prefillshare.store.codec.splitzip import SplitZip
from prefillshare.store.inspect import find_stores
from prefillshare.store.opening import read_header
from tests.fidelity.conftest import Prompt
from tests.support.marks import starts_engine
from tests.support.stores import PAGE_TOKENS, Relaunched, relaunched, store_path, stored_agents, whole_pages
from tests.support.waiting import wait_until

NUM_TOKENS = 18


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("disk")


@pytest.fixture(scope="module")
@starts_engine
def launches(tmp_path_factory: pytest.TempPathFactory, disk: Path) -> Iterator[Relaunched]:
    store = f'memory = "3 MiB"\npath = "{disk}"\ndisk = "64 MiB"\ncodec = "splitzip"\n'
    file = stored_agents(tmp_path_factory.mktemp("stored"), store)
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("[engine]\n", '[engine]\ndtype = "bfloat16"\n'), encoding="utf-8")
    with relaunched(file) as launches:
        yield launches


def wait_until_stored(file: Path, identity: StoreIdentity, asked: list[Prompt]) -> None:
    """Wait until another process finds the pages of every prompt: an engine writes them a moment after its answer."""
    settings = plan_store(resolve(load_deployment(file)))
    assert settings is not None
    chains = [chain_keys(identity, None, prompt[:-1], PAGE_TOKENS) for prompt in asked]
    with contextlib.closing(KvStore.attach(settings, identity)) as store:
        wait_until(
            lambda: all(store.count_present(keys) == len(keys) for keys in chains),
            lambda: [(store.count_present(keys), len(keys)) for keys in chains],
        )


def test_a_killed_engine_answers_from_encoded_pages_as_from_its_own(
    launches: Relaunched, prompts: list[Prompt], disk: Path
) -> None:
    asked = [prompt for prompt in prompts if len(prompt) > 4 * PAGE_TOKENS][:16]
    for prompt in asked:
        launches.endpoint.generate(prompt, None, 1)
    own = [launches.endpoint.generate(prompt, "math", NUM_TOKENS) for prompt in asked]
    for answer, prompt in zip(own, asked, strict=True):
        assert whole_pages(len(prompt)) <= answer.cached_tokens < len(prompt)
    header = read_header(store_path(launches.file))
    assert header is not None
    assert (header.codec, header.identity.kv_dtype) == (SplitZip.number, "torch.bfloat16")
    wait_until_stored(launches.file, header.identity, asked)
    launches.kill()
    (on_disk,) = (store for store in find_stores(SHARED_MEMORY, disk) if store.medium == "disk")
    assert on_disk.num_pages > 0, "memory held everything"

    stored = [launches.launch().generate(asked[0], "math", NUM_TOKENS)]
    stored += [launches.endpoint.generate(prompt, "math", NUM_TOKENS) for prompt in asked[1:]]
    # The store keeps whole pages; its own cache also held what of the last page had been computed.
    assert [answer.cached_tokens for answer in stored] == [whole_pages(len(prompt)) for prompt in asked]
    assert sum(answer.report["store_hit_tokens"] for answer in stored) > 0
    assert [answer.tokens for answer in stored] == [answer.tokens for answer in own]
