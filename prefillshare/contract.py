"""What launcher, router and patched engines must agree on, by name: imported by all of them, importing nothing."""

BACKEND_NAME = "prefillshare"
"""Value of ``--radix-cache-backend``; it exists only in a patched engine."""

ENGINE_PLUGIN = "prefillshare"
"""Entry point of the shared-prefill patches; must be named in ``SGLANG_PLUGINS``."""

CPU_PLUGIN = "prefillshare_cpu"
"""Entry points of the platform without an accelerator, and of its patches."""

PLUGINS = f"{ENGINE_PLUGIN},{CPU_PLUGIN}"
"""Value of ``SGLANG_PLUGINS`` for a shared-prefill engine: the loader takes only the plugins named there."""

FORKED_VARIABLE = "PREFILLSHARE_FORKED"
"""Environment variable that is 1 in engines made by the fork server."""

FINGERPRINT_VARIABLE = "PREFILLSHARE_PREFILL_FINGERPRINT"
"""Environment variable of disaggregated workers: fingerprint of the prefill module whose KV they make or read."""

DEPLOYMENT_VARIABLE = "PREFILLSHARE_DEPLOYMENT"
"""Environment variable of engines: name of the deployment, for people."""

WARNINGS_VARIABLE = "PREFILLSHARE_MODULE_WARNINGS"
"""Environment variable of engines: what is to be said of its decode modules, a JSON object from name to text."""

ALIASES_VARIABLE = "PREFILLSHARE_ALIASES"
"""Environment variable of engines that clients ask: other names of decode modules, the table `[aliases]` as JSON."""

MODULES_FILE_VARIABLE = "PREFILLSHARE_MODULES_FILE"
"""Environment variable of engines: file into which one writes its decode modules and aliases when they change."""

UNSHARED_VARIABLE = "PREFILLSHARE_UNSHARED_MODULES"
"""Environment variable of engines: the decode modules that compute their prompts themselves, a JSON object from name
to a hash of the adapter."""

SHARED_MEMORY_VARIABLE = "PREFILLSHARE_SHARED_MEMORY"
"""Environment variable of decode workers, 1: their KV lies in memory that prefill workers on the machine can map."""

PEER_SECRET_VARIABLE = "PREFILLSHARE_PEER_SECRET"
"""Environment variable of disaggregated workers: private file with the secret that all parts of a deployment share."""

WORKER_VARIABLE = "PREFILLSHARE_WORKER"
"""Environment variable of engines: the name of the process, as `prefillshare ps` tells it."""

ROUTED_VARIABLE = "PREFILLSHARE_BEHIND_ROUTER"
"""Environment variable of engines that serve whole calls for a router, 1: what it knows of a call is not their matter.
Prefill and decode workers are known by SGLang's own mode."""

RESTARTS_VARIABLE = "PREFILLSHARE_RESTARTS"
"""Environment variable of supervised processes: how often this one was started again."""

OVERLAP_VARIABLE = "PREFILLSHARE_CPU_OVERLAP"
"""Environment variable that is 1 where disaggregated workers without a GPU keep the overlap schedule, as tests do."""

LISTENER_VARIABLE = "PREFILLSHARE_LISTENER"
"""Environment variable of routers: descriptor of the socket to listen on, which their supervisor keeps open."""

SESSION_HEADER = "X-Session-ID"
"""HTTP header that names a call's session."""

MODULE_HEADER = "X-PrefillShare-Module"
"""HTTP header from the router to a prefill worker: the decode module for which it prefills."""

REPORT_HEADER = "X-PrefillShare-Report"
"""HTTP header of a prefill worker's answer in a form that has no place for it: `meta_info` of `/generate`, as JSON."""

CHOICE_HEADER = "X-PrefillShare-Choice"
"""HTTP header of an answer whose module a classifier has chosen: how likely each was, `math=0.9800, code=0.0200`."""

MESSAGES_PATH = "/v1/messages"
"""Begin of the paths of Anthropic's interface, which has errors of its own form."""

EAGER_HEADER = "X-PrefillShare-Eager"
"""HTTP header from the router to a worker, value 1: a prompt computed before anybody asks, after all who wait."""

EAGER_RID_PREFIX = "prefillshare-eager-"
"""Begin of a job's request id inside an engine; a prefill worker puts it before the id that the router gave."""

PUSH_RID_PREFIX = "prefillshare-push-"
"""Begin of the request id, on both workers, of a pair of legs that hands KV to a decode worker before any call does."""

CONTINUATION_PATH = "/prefillshare/continuation"
"""``GET ...?rid=``, of a decode worker: the tokens with which the next prompt begins after that answer, for once."""

CHANGES_PATH = "/router/changes"
"""``PUT``, of a router: its launcher says what became of a change of modules."""

STORE_BACKEND_MODULE = "sglang_patches.store.backend"
"""Module of the class by which an engine reads and writes the store; SGLang imports it by this name."""

STORE_BACKEND_CLASS = "StoreBackend"
"""Name of that class."""

WRITE_BACK_VARIABLE = "PREFILLSHARE_WRITE_BACK"
"""Environment variable of decode workers whose answers go back to the store: which one, and its pages, as JSON."""

STORE_FOLDER_START = "prefillshare-store-"
"""Begin of the name of the folder in shared memory that holds a user's stores: they outlive engines."""

LAST_PORT = 65535

MAX_STORE_THREADS = 64
"""Most threads of one engine that copy into the store and out of it; more would wait for the same memory."""

NO_BOOTSTRAP_HOST = "2.2.2.2"
"""SGLang's ``FAKE_BOOTSTRAP_HOST``: a prefill worker computes such a call and hands its KV to nobody."""

EAGER_VARIABLE = "PREFILLSHARE_EAGER_ANSWERS"
"""Environment variable of engines that compute answers ahead: the shortest one, in tokens; not set, they do not."""

TENANTS_VARIABLE = "PREFILLSHARE_TENANTS"
"""Environment variable of engines that know tenants: the file with them."""

TENANT_HEADER = "X-PrefillShare-Tenant"
"""HTTP header from one router to another: the tenant whose call this is."""

RESPONSES_VARIABLE = "PREFILLSHARE_RESPONSES"
"""Environment variable of engines that remember responses: the table `[responses]` of their deployment, as JSON."""

ADMISSION_VARIABLE = "PREFILLSHARE_MEMORY_WAIT_S"
"""Environment variable of engines that hold back new sessions while memory is full: the longest wait, in seconds."""

PATCHES_PROGRAM = "sglang_patches"
"""Module that `python -m` runs: `report` says whether the patches fit. Engines begin lines about themselves so."""

FORK_SERVER_PROGRAM = "sglang_patches.forkserver"
"""Module that `python -m` runs to import SGLang once and fork engines from it."""

STRANGER_PROGRAM = "prefillshare.cluster.stranger"
"""Module that `python -m` runs to ask a Ray cluster whether it takes the token of the environment."""

UNSUPPORTED_SWITCHES = {
    "enable_hierarchical_cache": "HiCache",
    "enable_lmcache": "LMCache",
    "enable_flexkv": "FlexKV",
    "disable_radix_cache": "a disabled radix cache",
    "enable_session_radix_cache": "the session radix cache",
    "enable_streaming_session": "streaming sessions",
    "enable_lora_overlap_loading": "overlapped LoRA loading",
    "enable_dp_attention": "data-parallel attention",
    "enable_two_batch_overlap": "two-batch overlap",
    "enable_single_batch_overlap": "single-batch overlap",
    "is_embedding": "embedding mode",
    "allow_auto_truncate": "prompts whose end is cut off",
    "disaggregation_decode_enable_offload_kvcache": "KV offload on decode workers",
}
"""Field of SGLang's ServerArgs -> what it is; launcher and engine refuse it when truthy."""

UNSUPPORTED_ALGORITHMS = {
    "speculative_algorithm": "speculative decoding",
    "dllm_algorithm": "diffusion models",
}
"""Field of SGLang's ServerArgs -> what it is; launcher and engine refuse it when it names one."""
