"""`import prefillshare.frontend` loads what `import sglang` loads."""

import json
import subprocess
import sys

SCRIPT = """
import json, sys, warnings
warnings.simplefilter("ignore")
import sglang
def heavy():
    names = ("torch", "triton", "transformers", "peft", "sglang_patches")
    return sorted(m for m in sys.modules if m.split(".")[0] in names or m.startswith("sglang.srt."))
before = heavy()
import prefillshare.frontend
is_gpu_used = "torch" in sys.modules and sys.modules["torch"].cuda.is_initialized()
print(json.dumps([before == heavy(), is_gpu_used]))
"""


def test_importing_it_loads_no_engine_and_uses_no_gpu() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [True, False]
