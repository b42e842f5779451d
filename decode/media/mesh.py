"""Points in space: (point, 3), or (point, 6) with colours in [0, 1], kept as PLY.

Of a surface its corners are taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from decode.media.image import check_range, described, tag
from decode.media.seen import Seen
from decode.refusals import reading, refusal

if TYPE_CHECKING:
    from torch import Tensor

ENDING = ".ply"
SUFFIXES = ("obj", "ply", "stl", "glb")
# Points of two things do not correspond.
mean: Callable[[Iterable[Any]], Any] | None = None
SIDE = 256
PLAIN = (0.35, 0.4, 0.5)
MOST_DRAWN = 5000


def check(data: Any, rate: float | None) -> None:
    """A finite (point, 3) or (point, 6), the last three colours in [0, 1], without a rate."""
    import torch

    if not isinstance(data, torch.Tensor) or data.ndim != 2 or data.shape[1] not in (3, 6) or rate:
        raise ValueError(f"a mesh is (point, 3 or 6) without a rate, got {described(data)}, {rate}")
    if not len(data) or not bool(torch.isfinite(data).all()):
        raise ValueError("a mesh holds no point, NaN or infinite values")
    check_range("a mesh's colour", data[:, 3:], 0, 1)


def read(path: str, start: float = 0.0, duration: float | None = None) -> tuple[Tensor, None]:
    """(point, 3) float32, or (point, 6) where the file has a colour of each point."""
    import torch
    import trimesh

    glance(path)
    with reading(path, "a mesh", "replace the file"):
        kind = Path(path).suffix.lstrip(".").lower()
        with open(path, "rb") as file:
            found = trimesh.load(file, file_type=kind, process=False)
        parts: list[Any] = found.dump() if isinstance(found, trimesh.Scene) else [found]
        points = np.concatenate([np.asarray(p.vertices, np.float32) for p in parts])
        colours = [c for c in map(_colours, parts) if c is not None]
        if len(colours) == len(parts):
            points = np.hstack([points, np.concatenate(colours)])
        if not len(points) or not np.isfinite(points).all():
            raise ValueError("no point, NaN or infinite values")
    return torch.from_numpy(points), None


def _colours(part: Any) -> np.ndarray | None:
    """(point, 3) float32 in [0, 1]; None where points have none of their own."""
    colours = getattr(part, "colors", None) if not hasattr(part, "faces") else None
    if colours is None and hasattr(part, "faces") and part.visual.kind == "vertex":
        colours = part.visual.vertex_colors
    if colours is None or len(colours) != len(part.vertices):
        return None
    return (np.asarray(colours)[:, :3] / 255).astype(np.float32)


def glance(path: str) -> None:
    if not Path(path).is_file():
        raise refusal(path, "a mesh", "no file", "put it there or correct the events")


def look(path: str, start: float = 0.0, duration: float | None = None) -> Seen:
    read(path)
    return Seen()


def write(path: Path, data: Tensor, rate: float | None = None) -> None:
    import trimesh

    values = data.detach().cpu().numpy()
    colours = (values[:, 3:] * 255).round().astype(np.uint8) if values.shape[1] == 6 else None
    cloud = trimesh.PointCloud(values[:, :3], colors=colours)
    kept = cloud.export(file_type="ply")
    path.write_bytes(kept if isinstance(kept, bytes) else kept.encode())


def view(data: Tensor, rate: float | None = None, label: str = "") -> str:
    """A picture of the points, seen from above and aside; nearer ones are larger."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    values = data.detach().cpu().numpy()
    values = values[:: max(1, len(values) // MOST_DRAWN)]
    figure = Figure(figsize=(SIDE / 100, SIDE / 100), dpi=100)
    FigureCanvasAgg(figure)
    axes: Any = figure.add_axes((0, 0, 1, 1), projection="3d")
    x, y, z = values[:, :3].T
    axes.scatter(x, y, z, s=4, c=values[:, 3:] if values.shape[1] == 6 else [PLAIN])
    axes.set_box_aspect(np.maximum(np.ptp(values[:, :3], axis=0), 1e-6))
    axes.set_axis_off()
    kept = BytesIO()
    figure.savefig(kept, format="png")
    return tag(np.asarray(Image.open(kept).convert("RGB")), label)
