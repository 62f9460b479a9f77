"""Loss and gradients of a layout, computed in one way and another."""

from pathlib import Path

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from prefillshare.training.layout import Layout
from prefillshare.training.objective import layout_loss

TOLERANCE = 1e-5
Found = tuple[float, dict[str, torch.Tensor]]


def loss_and_gradients(model: torch.nn.Module, *layouts: Layout) -> Found:
    """Mean over all targets of the layouts, and its gradient."""
    model.zero_grad()
    weight = sum(layout.weights.sum() for layout in layouts)
    total = sum(layout_loss(model, layout) for layout in layouts) / weight
    total.backward()
    return float(total.detach()), {
        name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None
    }


def loss_and_gradients_sharded(model, layout: Layout, directory: Path) -> Found:
    """The same with every layer sharded by FSDP, over a mesh of one process.

    Effects: shards the model for good; `directory` holds the processes' store.
    """
    store = torch.distributed.FileStore(str(directory / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        for layer in model.get_base_model().model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        loss, gradients = loss_and_gradients(model, layout)
        return loss, {name: gradient.full_tensor() for name, gradient in gradients.items()}
    finally:
        torch.distributed.destroy_process_group()


def assert_same(title: str, found: Found, other: Found) -> None:
    worst = max(float((found[1][name] - other[1][name]).abs().max()) for name in found[1])
    print(f"{title}: loss differs by {abs(found[0] - other[0]):.1e}, gradients by at most {worst:.1e}")
    assert found[1].keys() == other[1].keys()
    assert abs(found[0] - other[0]) < TOLERANCE
    assert worst < TOLERANCE
