"""For all tests, and for the programs that they start."""

import os

# Masks by GrabCut: the network's weights are a download of 165 MB. tests/sap3d/photos/test_network.py has the network.
os.environ["MASKS"] = "grabcut"

# These files take longest. They come first, so that at the end no core waits for the rest of one.
SLOWEST = (
    "test_published_pipeline.py",
    "test_pipeline.py",
    "threestudio/test_launch.py",
    "threestudio/test_sap3d.py",
    "demo/test_app.py",
    "demo/test_accessibility.py",
    "demo/test_outcome.py",
    "demo/test_editor.py",
    "demo/test_viewer.py",
    "faults/test_bad_inputs.py",
    "camerabooth/test_tuning.py",
    "threestudio/test_corrections.py",
    "threestudio/test_texture.py",
    "sap3d/runs/test_stages.py",
    "camerabooth/test_pretrain.py",
    "test_run_pipeline_ray.py",
    "test_on_a_card.py",
    "demo/test_jobs.py",
    "faults/test_properties.py",
    "relposepp/test_evaluate.py",
)


def pytest_collection_modifyitems(items: list) -> None:
    ranks = {f"tests/{name}": rank for rank, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: ranks.get(item.nodeid.partition("::")[0], len(ranks)))
