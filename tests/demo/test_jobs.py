"""Jobs: which there are, which may be queued, and which are removed."""

import shutil
import time

import drafts
import imageio.v3 as imageio
import jobs as jb
import numpy as np
import pytest

from sap3d.errors import UserError
from sap3d.photos.intake import Limits
from tests.demo.runs import draft, submit
from threestudio.models.exporters.mesh import MeshExporter


@pytest.mark.parametrize("identifier", ["", None, "..", "../../etc", "0" * 32, "A" * 32, "0" * 31 + "/"])
def test_only_identifiers_of_jobs_are_jobs(folder, identifier):
    folder.mkdir()
    assert jb.find_job(folder, identifier) is None


def test_a_job_with_an_unclear_photo_is_not_queued(folder, tmp_path):
    imageio.imwrite(tmp_path / "plain.png", np.full((200, 200, 3), 120, np.uint8))
    job, _ = drafts.create_job(folder, [tmp_path / "plain.png"], Limits())
    assert job.known["photos"][0]["problem"] == "no clear object in it"
    with pytest.raises(UserError, match="No photo can be used"):
        submit(job)
    assert job.known["state"] == "draft"


def test_old_jobs_are_removed_but_not_those_that_wait(folder, tmp_path):
    old, waiting, new = (draft(folder, tmp_path) for _ in range(3))
    submit(waiting)
    for job in (old, waiting):
        job.note(created=time.time() - 2 * jb.KEEP)
    jb.remove_old(folder)
    assert {job.id for job in jb.all_jobs(folder)} == {waiting.id, new.id}
    shutil.rmtree(folder)


def test_the_page_proposes_what_the_pipeline_does_by_itself():
    usual = MeshExporter.Config()
    assert (jb.Choices().faces, jb.Choices().texture) == (usual.faces, usual.texture_size)
    assert usual.faces in jb.FACES and usual.texture_size in jb.TEXTURES
