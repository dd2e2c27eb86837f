"""Push and pull against a stand-in for the Hugging Face Hub."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from support import hugging_face, registry
from support.adapters import save_adapter
from support.hugging_face import READER, WRITER, HuggingFace

from finch_hub import Hub, errors, settings
from finch_hub.artifacts import gate
from finch_hub.artifacts.cards import metadata
from finch_hub.engine.export.quantization import quantize
from finch_hub.formats.peft_names import CONFIG, WEIGHTS
from finch_hub.hub import importing, pulling
from finch_hub.registry import adapter_versions, tables, values
from finch_hub.registry.database import Database
from finch_hub.specs.evidence import Evidence, LossCurve

# huggingface_hub uploads large files by an argument that its HTTP library names otherwise now.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

OpenHub = Callable[[str], Hub]


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HuggingFace]:
    with hugging_face.serve() as server:
        hugging_face.use(server, tmp_path / "cache", monkeypatch)
        yield server


@pytest.fixture
def saved(tiny_folder: Path, tmp_path: Path) -> Path:
    return save_adapter(tiny_folder, tmp_path / "saved", r=4, lora_alpha=8, target_modules=["q_proj"])


@pytest.fixture
def open_hub(tmp_path: Path, valkey_url: str, layout_cache: Path) -> Iterator[OpenHub]:
    """Return a function that opens a home by its name."""
    opened: list[Hub] = []

    def open_home(name: str) -> Hub:
        (tmp_path / name).mkdir()
        (tmp_path / name / "bases").symlink_to(layout_cache)
        opened.append(Hub(settings.load(home=tmp_path / name, broker_url=valkey_url)))
        return opened[-1]

    yield open_home
    for hub in opened:
        hub.close()


@pytest.fixture
def birds(hub: Hub, tiny_folder: Path, saved: Path) -> Hub:
    """A hub with `birds/1` on a base with an id."""
    hub.bases.add(tiny_folder, name="tiny", public_id="org/tiny")
    hub.import_adapter(saved, name="birds", base="tiny")
    return hub


def test_pushed_version_is_one_commit_with_a_tag_and_comes_back_with_its_identity(
    birds: Hub, remote: HuggingFace, open_hub: OpenHub, tiny_folder: Path
) -> None:
    pushed = birds.repositories.push("birds", "ana/birds", private=True)
    repository = remote.repositories["ana/birds"]
    assert (pushed.version, pushed.tag, pushed.is_new) == ("birds/1", "v1", True)
    assert pushed.address == f"{remote.url}/ana/birds/tree/v1"
    assert repository.is_private
    assert repository.tags == {"v1": pushed.commit}
    assert [commit.message for commit in repository.commits] == ["", "Add birds/1"]
    files = repository.commits[-1].files
    assert set(files) == {".gitattributes", "README.md", CONFIG, WEIGHTS, "finch.json"}
    assert b'base_model: "org/tiny"' in files["README.md"]
    assert json.loads(files[CONFIG])["base_model_name_or_path"] == "org/tiny"

    entry = birds.audit.find(limit=1)[0]
    assert (entry.action, entry.on, entry.details["commit"]) == ("version.push", "birds/1", pushed.commit)

    other = open_hub("other")
    other.bases.add(tiny_folder, name="small", public_id="ana/small")
    pulled = other.repositories.pull("ana/birds@v1", name="guest")
    assert (pulled.commit, pulled.revision, pulled.is_new, pulled.identity) == (pushed.commit, "v1", True, "equal")
    assert pulled.version.identity == birds.adapters.get("birds/1").identity
    assert pulled.version.base.name == "small"
    origin = {"repository": "ana/birds", "revision": "v1", "commit": pushed.commit}
    assert other.adapters.get("guest/1").lineage.environment["pulled"] == origin
    entry = other.audit.find(limit=1)[0]
    assert (entry.on, entry.details) == ("guest/1", {"kind": "import", "source": "ana/birds@v1"})
    again = other.repositories.pull("ana/birds", name="guest")
    assert (again.version.reference, again.is_new) == ("guest/1", False)

    back = other.repositories.push("guest", "ana/birds")  # the same adapter, under another name of its base
    assert (back.commit, back.is_new) == (pushed.commit, False)
    assert back.differs == ("README.md", CONFIG, "finch.json")
    assert len(repository.commits) == 2
    assert birds.repositories.pull("ana/birds", name="home").version.lineage.parents[0].reference == "birds/1"


def test_second_push_makes_no_commit_and_an_interrupted_one_is_finished(birds: Hub, remote: HuggingFace) -> None:
    first = birds.repositories.push("birds", "ana/birds")
    second = birds.repositories.push("birds/1", "ana/birds")
    assert (second.commit, second.is_new, second.differs) == (first.commit, False, ())
    repository = remote.repositories["ana/birds"]
    del repository.tags["v1"]
    third = birds.repositories.push("birds/1", "ana/birds")
    assert (third.commit, third.is_new) == (first.commit, True)
    assert len(repository.commits) == 2
    birds.adapters.edit_card("birds/1", f"# Birds\n\nMade in {Path.home()}/work by hand.\n")
    edited = birds.repositories.push("birds/1", "ana/birds")
    assert (edited.is_new, edited.differs) == (False, ("README.md",))


def test_edited_card_is_pushed_without_secrets_and_local_places(
    birds: Hub, remote: HuggingFace, tmp_path: Path
) -> None:
    text = f"# Birds\n\nSee {birds.settings.home}/x, /home/ana/y and {WRITER}.\n"
    with pytest.warns(errors.FinchWarning, match="masked a secret in the card"):
        birds.adapters.edit_card("birds/1", text)
    birds.repositories.push("birds", "ana/birds")
    files = remote.repositories["ana/birds"].commits[-1].files
    front, text = files["README.md"].decode().removeprefix("---\n").split("---\n\n")
    assert 'base_model: "org/tiny"' in front
    assert text == "# Birds\n\nSee ~/x, ~/y and ***.\n"
    assert str(tmp_path).encode() not in b"".join(files.values())


def test_sample_answers_are_in_the_card_only_if_they_are_asked_for(birds: Hub, remote: HuggingFace) -> None:
    with pytest.raises(errors.Conflict, match="birds/1 has no sample answers"):
        birds.repositories.push("birds", "ana/birds", samples=True)
    assert remote.repositories == {}
    sample = {"prompt": f"What eats {WRITER}?", "expected": "``` Seeds.", "before": "<b>Stones</b>", "after": "Seeds"}
    blob = birds._stores.artifacts.put(json.dumps({"samples": [sample], "max_tokens": 64}).encode())
    with birds._stores.database.write() as session:
        session.execute(sa.update(tables.Evidence).values(samples=blob))
    birds.repositories.push("birds", "ana/birds")
    assert b"Sample answers" not in remote.repositories["ana/birds"].commits[-1].files["README.md"]
    birds.repositories.push("birds", "ana/shown", samples=True)
    card = remote.repositories["ana/shown"].commits[-1].files["README.md"].decode()
    shown = card[card.index("## Sample answers") :]
    assert "Prompt:\n\n    What eats ***?\n" in shown
    assert "    <b>Stones</b>\n" in shown
    assert "Before, by `base`:" in shown or "Before, by base:" in shown
    assert "Sample answers" not in birds.adapters.get("birds").card
    birds.adapters.edit_card("birds", "# Birds\n\n```\nnever closed\n")
    birds.repositories.push("birds", "ana/edited", samples=True)
    card = remote.repositories["ana/edited"].commits[-1].files["README.md"].decode()
    assert card.index("---\n\n## Sample answers") < card.index("# Birds\n\n```"), "the open block takes nothing in"


def test_card_that_the_hub_refuses_is_said_with_its_reason(
    birds: Hub, remote: HuggingFace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "make_front", lambda facts: ["---", "license: 12", "---", ""])
    with pytest.raises(errors.InvalidInput, match=r'its card is refused: "license" must be a string .*edit the card'):
        birds.repositories.push("birds", "ana/birds")
    assert remote.repositories["ana/birds"].tags == {}


def test_card_in_a_repository_names_it_and_has_the_curve(
    birds: Hub, remote: HuggingFace, tiny_folder: Path, tmp_path: Path
) -> None:
    retrained = save_adapter(tiny_folder, tmp_path / "retrained", r=2, lora_alpha=8, target_modules=["q_proj"])
    curve = LossCurve.of_points([(1, 3.0, 1e-3), (2, 2.0, 1e-3)], [])
    document = Evidence(kind="train", curve=curve).to_document()
    with birds._stores.database.write() as session:
        session.execute(sa.update(tables.Evidence.__table__).values(document=document))
    birds.adapters.describe("birds", "Names birds.")
    birds.bases.add(str(birds.bases.get("tiny").path), license="mit")
    birds.repositories.push("birds", "ana/birds")
    files = remote.repositories["ana/birds"].commits[-1].files
    assert files["loss.svg"].startswith(b"<svg")
    card = files["README.md"].decode()
    assert 'adapter = "ana/birds"\n' in card
    assert 'from_pretrained(model, adapter, revision="v1")' in card
    assert "## What it is for\n\nNames birds.\n" in card
    assert 'license: "mit"\n' in card
    assert "](loss.svg)" in card
    with birds._stores.database.write() as session:
        session.execute(sa.delete(tables.Evidence.__table__))
    birds.import_adapter(retrained, name="birds", base="tiny")
    birds.repositories.push("birds/2", "ana/birds")
    assert "loss.svg" not in remote.repositories["ana/birds"].commits[-1].files, "that of the version before"


def test_quantized_version_is_pushed_in_a_form_that_peft_reads_and_comes_back_as_what_it_was(
    birds: Hub, remote: HuggingFace, tmp_path: Path
) -> None:
    quantize(birds.adapters.folder("birds"), tmp_path / "small", scheme="int8")
    quantized = birds.import_adapter(tmp_path / "small", name="small", base="tiny")
    birds.repositories.push("small", "ana/small")
    weights = remote.repositories["ana/small"].commits[-1].files[WEIGHTS]
    header = json.loads(weights[8 : 8 + int.from_bytes(weights[:8], "little")])
    assert {tensor.get("dtype") for tensor in header.values()} - {None} == {"F32"}
    back = birds.repositories.pull("ana/small", name="back")
    assert back.identity == "equal"
    assert back.version.lineage.parents[0].reference == quantized.reference


def test_tag_of_another_adapter_is_refused(birds: Hub, remote: HuggingFace, tiny_folder: Path, tmp_path: Path) -> None:
    other = save_adapter(tiny_folder, tmp_path / "other", seed=1, r=2, target_modules=["v_proj"])
    birds.import_adapter(other, name="bees", base="tiny")
    birds.repositories.push("birds", "ana/birds")
    with pytest.raises(errors.Conflict, match=r"tag v1 of ana/birds is another adapter than bees/1 .*hf repos tag"):
        birds.repositories.push("bees", "ana/birds")
    assert birds.audit.find(limit=1)[0].outcome == "refused"
    assert len(remote.repositories["ana/birds"].commits) == 2


def import_another(hub: Hub, tiny_folder: Path, folder: Path, *, name: str, seed: int) -> None:
    other = save_adapter(tiny_folder, folder / f"{name}-{seed}", seed=seed, r=2, target_modules=["v_proj"])
    hub.import_adapter(other, name=name, base="tiny")


def test_older_version_gets_its_tag_and_leaves_main_unless_main_is_asked_for(
    birds: Hub, remote: HuggingFace, tiny_folder: Path, tmp_path: Path
) -> None:
    import_another(birds, tiny_folder, tmp_path, name="birds", seed=1)
    import_another(birds, tiny_folder, tmp_path, name="birds", seed=2)
    third = birds.repositories.push("birds/3", "ana/birds")
    repository = remote.repositories["ana/birds"]
    assert third.is_main
    old = birds.repositories.push("birds/1", "ana/birds")
    assert (old.tag, old.is_new, old.is_main) == ("v1", True, False)
    assert repository.tags == {"v1": old.commit, "v3": third.commit}
    assert repository.commits[-1].oid == third.commit  # main stays
    assert repository.branches == {}
    assert birds.repositories.pull("ana/birds", name="guest").version.identity == birds.adapters.get("birds/3").identity
    first = birds.repositories.pull("ana/birds@v1", name="first")
    assert (first.identity, first.version.identity) == ("equal", birds.adapters.get("birds/1").identity)

    again = birds.repositories.push("birds/1", "ana/birds")
    assert (again.commit, again.is_new, again.is_main) == (old.commit, False, False)
    moved = birds.repositories.push("birds/1", "ana/birds", main=True)
    assert (moved.commit, moved.is_new, moved.is_main) == (old.commit, True, True)
    assert repository.commits[-1].files == repository.find("v1").files  # type: ignore[union-attr]
    assert repository.tags["v1"] == old.commit
    del repository.tags["v3"]  # the record of main says the number, too
    assert birds.repositories.push("birds/3", "ana/birds").is_main
    del repository.tags["v3"]
    assert not birds.repositories.push("birds/2", "ana/birds").is_main


def test_tag_of_another_thing_leaves_main_to_the_version(birds: Hub, remote: HuggingFace) -> None:
    repository = remote.add("ana/birds", {"README.md": b"# mine"})
    repository.tags["v9"] = repository.commits[-1].oid
    pushed = birds.repositories.push("birds", "ana/birds")
    assert pushed.is_main
    assert repository.commits[-1].oid == pushed.commit
    repository.commits.append(repository.commits[0])  # an earlier hub kept main without an adapter
    again = birds.repositories.push("birds", "ana/birds")
    assert (again.is_new, again.is_main) == (True, True)
    assert birds.repositories.pull("ana/birds", name="guest").identity == "equal"


def test_tag_of_another_thing_does_not_hide_that_a_version_is_the_newest(
    birds: Hub, remote: HuggingFace, tiny_folder: Path, tmp_path: Path
) -> None:
    first = birds.repositories.push("birds/1", "ana/birds")
    remote.repositories["ana/birds"].tags["v9"] = first.commit
    import_another(birds, tiny_folder, tmp_path, name="birds", seed=1)
    assert birds.repositories.push("birds/2", "ana/birds").is_main


def test_interrupted_push_of_an_older_version_is_finished(
    birds: Hub, remote: HuggingFace, tiny_folder: Path, tmp_path: Path
) -> None:
    import_another(birds, tiny_folder, tmp_path, name="birds", seed=1)
    birds.repositories.push("birds/2", "ana/birds")
    old = birds.repositories.push("birds/1", "ana/birds")
    repository = remote.repositories["ana/birds"]
    del repository.tags["v1"]
    repository.branches["finch-v1"] = old.commit
    again = birds.repositories.push("birds/1", "ana/birds")
    assert (again.commit, again.is_new, again.is_main) == (old.commit, True, False)
    assert (len(repository.commits), len(repository.others), repository.branches) == (2, 1, {})


def test_main_of_another_adapter_is_refused_unless_main_is_asked_for(
    birds: Hub, remote: HuggingFace, tiny_folder: Path, saved: Path, tmp_path: Path
) -> None:
    birds.repositories.push("birds", "ana/birds")
    import_another(birds, tiny_folder, tmp_path, name="bees", seed=1)
    import_another(birds, tiny_folder, tmp_path, name="bees", seed=2)
    with pytest.raises(errors.Conflict, match=r"main of ana/birds holds adapter birds, not bees .*main=True"):
        birds.repositories.push("bees/2", "ana/birds")
    assert birds.repositories.push("bees/2", "ana/birds", main=True).is_main

    remote.add("bob/owls", read_files(saved))
    with pytest.raises(errors.Conflict, match="main of bob/owls holds an adapter that no hub pushed, not bees"):
        birds.repositories.push("bees/1", "bob/owls")
    assert birds.repositories.push("birds/1", "bob/owls", main=True).is_new

    birds.adapters.rename("birds", "finches")
    import_another(birds, tiny_folder, tmp_path, name="finches", seed=3)
    assert birds.repositories.push("finches/2", "bob/owls").is_main  # under another name, the same adapter


def test_repository_of_a_model_or_a_public_one_is_refused(birds: Hub, remote: HuggingFace) -> None:
    remote.add("org/tiny", {"config.json": b"{}", "model.safetensors": b""})
    with pytest.raises(errors.Conflict, match=r"org/tiny holds a model \(config.json\).*push to another"):
        birds.repositories.push("birds", "org/tiny")
    remote.add("ana/public", {"notes.txt": b""})
    with pytest.raises(errors.Conflict, match=r"exists and is public .*omit private"):
        birds.repositories.push("birds", "ana/public", private=True)
    assert all(len(repository.commits) == 1 for repository in remote.repositories.values())


def test_base_without_an_id_is_warned_of(hub: Hub, remote: HuggingFace, tiny_folder: Path, saved: Path) -> None:
    hub.bases.add(tiny_folder, name="tiny")
    hub.import_adapter(saved, name="birds", base="tiny")
    with pytest.warns(
        errors.FinchWarning, match="base tiny has no id.*finch-hub bases add tiny --public-id OWNER/NAME"
    ):
        hub.repositories.push("birds", "ana/birds")
    assert b"base_model:" not in remote.repositories["ana/birds"].commits[-1].files["README.md"]


def test_push_without_a_token_or_access_says_what_to_do(
    birds: Hub, remote: HuggingFace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(errors.AccessDenied, match=r"there is no token .*HF_TOKEN"):
        birds.repositories.push("birds", "ana/birds")
    monkeypatch.setenv("HF_TOKEN", READER)
    with pytest.raises(errors.AccessDenied, match=r"may not do this.*write access") as refused:
        birds.repositories.push("birds", "ana/birds")
    assert READER not in str(refused.value)
    monkeypatch.setenv("HF_TOKEN", "hf_wrongwrongwrongwrongwrongwrong12")
    with pytest.raises(errors.AccessDenied, match="rejected the token") as refused:
        birds.repositories.push("birds", "ana/birds")
    assert "wrongwrong" not in str(refused.value)
    assert remote.repositories == {}


def read_files(folder: Path, *names: str) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names or (CONFIG, WEIGHTS)}


def test_adapter_of_others_finds_its_base_by_the_card(
    hub: Hub, remote: HuggingFace, tiny_folder: Path, saved: Path
) -> None:
    remote.add("bob/bees", read_files(saved), card_data={"base_model": "org/tiny"})
    with pytest.raises(errors.Incompatible, match=r"bob/bees: is for base org/tiny, which is not registered .*add"):
        hub.repositories.pull("bob/bees", name="bees")
    hub.bases.add(tiny_folder, name="tiny", public_id="org/tiny")
    pulled = hub.repositories.pull("bob/bees", name="bees")
    assert (pulled.version.state, pulled.version.base.name, pulled.identity) == ("ready", "tiny", "unknown")
    fetched = {path.rpartition("/")[2] for method, path in remote.requests if "/resolve/" in path}
    assert fetched == {CONFIG, WEIGHTS}


def test_record_of_another_base_is_refused_with_the_command_that_adds_it(
    birds: Hub, remote: HuggingFace, open_hub: OpenHub, tiny_folder: Path, tmp_path: Path
) -> None:
    birds.repositories.push("birds", "ana/birds")
    changed = Path(shutil.copytree(tiny_folder, tmp_path / "changed"))
    config = json.loads((changed / "config.json").read_text())
    (changed / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 256}))
    other = open_hub("other")
    other.bases.add(changed, name="newer", public_id="org/tiny")
    match = (
        r"registered with other files only: its files have the fingerprint .*`finch-hub bases add org/tiny` may bring"
    )
    with pytest.raises(errors.Incompatible, match=match):
        other.repositories.pull("ana/birds", name="guest")
    pulled = other.repositories.pull("ana/birds", name="guest", base="newer")  # as the user wants it
    assert pulled.version.base.name == "newer"


def test_changed_files_are_refused_by_their_identity(birds: Hub, remote: HuggingFace, saved: Path) -> None:
    birds.repositories.push("birds", "ana/birds")
    config = json.loads((saved / CONFIG).read_text())
    changed = json.dumps({**config, "lora_alpha": 16}).encode()
    remote.repositories["ana/birds"].commit({CONFIG: changed})
    with pytest.raises(errors.RefusedArtifact, match="declares the identity"):
        birds.repositories.pull("ana/birds", name="guest")
    assert birds.repositories.pull("ana/birds@v1", name="guest").identity == "equal"


@pytest.mark.parametrize("spoil", [{}, {"fan_in_fan_out": True}], ids=["the same form", "a form that the gate changes"])
@pytest.mark.parametrize("identity", ["kept", "null", "removed"])
def test_changed_weights_are_refused_whatever_identity_is_left(
    birds: Hub, remote: HuggingFace, tiny_folder: Path, tmp_path: Path, identity: str, spoil: dict[str, Any]
) -> None:
    birds.repositories.push("birds", "ana/birds")
    repository = remote.repositories["ana/birds"]
    record = json.loads(repository.commits[-1].files["finch.json"])
    kept = {"kept": record["identity"], "null": None}
    record = {**record, "identity": kept[identity]} if identity in kept else record.pop("identity") and record
    other = save_adapter(tiny_folder, tmp_path / "other", seed=5, r=4, lora_alpha=8, target_modules=["q_proj"])
    config = json.dumps({**json.loads((other / CONFIG).read_bytes()), **spoil}).encode()
    record_bytes = json.dumps(record).encode()
    repository.commit({**read_files(other, WEIGHTS), CONFIG: config, "finch.json": record_bytes})
    with pytest.raises(errors.RefusedArtifact, match="the files were changed"):
        birds.repositories.pull("ana/birds", name="guest", base="tiny")


def test_adapter_that_the_gate_fits_to_the_base_is_pulled_as_changed(
    birds: Hub, remote: HuggingFace, saved: Path
) -> None:
    config = {**json.loads((saved / CONFIG).read_bytes()), "fan_in_fan_out": True}
    (saved / CONFIG).write_text(json.dumps(config))
    weights = hashlib.sha256((saved / WEIGHTS).read_bytes()).hexdigest()
    identity = gate.identity_of((saved / CONFIG).read_bytes(), weights)
    remote.add("bob/bees", {**read_files(saved), "finch.json": json.dumps({"identity": identity}).encode()})
    assert birds.repositories.pull("bob/bees", name="bees", base="tiny").identity == "changed"


def test_pulls_of_one_commit_at_the_same_time_make_one_version(
    birds: Hub, remote: HuggingFace, monkeypatch: pytest.MonkeyPatch
) -> None:
    birds.repositories.push("birds", "ana/birds")
    together = threading.Barrier(3)
    import_files = importing.import_files

    def import_together(*arguments: Any, **options: Any) -> values.AdapterVersion:
        together.wait(60)  # all have looked for an earlier version
        return import_files(*arguments, **options)

    monkeypatch.setattr(importing, "import_files", import_together)
    with ThreadPoolExecutor(3) as pool:
        pulls = list(pool.map(lambda _: birds.repositories.pull("ana/birds@v1", name="guest"), range(3)))
    assert {pull.version.reference for pull in pulls} == {"guest/1"}
    assert sorted(pull.is_new for pull in pulls) == [False, False, True]
    assert len([entry for entry in birds.audit.find() if entry.on == "guest/1"]) == 1


def test_pickles_and_large_files_are_refused_before_they_are_downloaded(
    birds: Hub, remote: HuggingFace, saved: Path
) -> None:
    remote.add("bob/pickle", {**read_files(saved, CONFIG), "adapter_model.bin": b"x"})
    with pytest.raises(errors.RefusedArtifact, match=r"has no adapter_model.safetensors; it has the pickle ada"):
        birds.repositories.pull("bob/pickle", name="guest")
    remote.add("bob/large", read_files(saved))
    remote.sizes = {CONFIG: 2**21, WEIGHTS: 2**40}
    with pytest.raises(errors.RefusedArtifact, match=r"2 problems(.|\n)*2,097,152 bytes(.|\n)*1,099,511,627,776 bytes"):
        birds.repositories.pull("bob/large", name="guest")
    remote.sizes = {WEIGHTS: 2**32}
    assert not [path for _, path in remote.requests if "/resolve/" in path]


def test_missing_private_and_gated_repositories_say_what_to_do(
    birds: Hub, remote: HuggingFace, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pull = birds.repositories.pull
    with pytest.raises(errors.MissingRepository, match=r"no repository 'ana/no' that your token can read"):
        pull("ana/no", name="guest")
    repository = remote.add("ana/birds", read_files(saved))
    repository.tags["v1"] = repository.commits[0].oid
    with pytest.raises(errors.NotFound, match=r"no revision 'ana/birds@v2' \(did you mean 'ana/birds@v1'"):
        pull("ana/birds@v2", name="guest")
    remote.add("ana/gated", {}, is_gated=True)
    with pytest.raises(errors.AccessDenied, match=rf"it is gated \(accept its terms at {remote.url}/ana/gated"):
        pull("ana/gated", name="guest")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(errors.MissingRepository, match=r"no public repository 'ana/no' .*HF_TOKEN"):
        pull("ana/no", name="guest")


@pytest.mark.parametrize(
    ("status", "kind", "text"),
    [
        (500, errors.Unavailable, "the server answered 500"),
        (429, errors.Unavailable, "too many requests"),
        (409, errors.Conflict, "the repository changed meanwhile"),
    ],
)
def test_failures_of_the_server_are_told(
    birds: Hub, remote: HuggingFace, status: int, kind: type[errors.FinchError], text: str
) -> None:
    remote.fault = status
    with pytest.raises(kind, match=text):
        birds.repositories.pull("ana/birds", name="guest")


def test_offline_mode_takes_the_cache_and_never_the_network(
    birds: Hub, remote: HuggingFace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    birds.repositories.push("birds", "ana/birds")
    birds.repositories.pull("ana/birds@v1", name="guest")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(remote.requests)
    assert birds.repositories.pull("ana/birds@v1", name="other").identity == "equal"
    with pytest.raises(errors.Unavailable, match="not in the cache, and HF_HUB_OFFLINE forbids the network"):
        birds.repositories.pull("ana/elsewhere", name="other")
    with pytest.raises(errors.Unavailable, match="HF_HUB_OFFLINE forbids the network"):
        birds.repositories.push("birds", "ana/birds")
    assert len(remote.requests) == asked


def test_no_network_says_what_to_check(birds: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hugging_face.serve() as server:
        pass  # its port is closed again
    hugging_face.use(server, tmp_path / "cache", monkeypatch)
    with pytest.raises(errors.Unavailable, match=r"does not answer .*HF_ENDPOINT"):
        birds.repositories.pull("ana/birds", name="guest")
    with pytest.raises(errors.Unavailable, match=r"does not answer .*HF_ENDPOINT"):
        birds.repositories.push("birds", "ana/birds")


def test_new_commit_of_a_base_is_a_new_base_and_old_versions_go_on_working(
    hub: Hub, remote: HuggingFace, tiny_folder: Path, saved: Path
) -> None:
    files = {path.name: path.read_bytes() for path in tiny_folder.iterdir() if path.is_file()}
    repository = remote.add("org/tiny", files)
    old = hub.bases.add("org/tiny")
    hub.import_adapter(saved, name="birds", base="org/tiny")
    config = {**json.loads(files["config.json"]), "max_position_embeddings": 256}
    repository.commit({"config.json": json.dumps(config).encode()})
    new = hub.bases.add("org/tiny")
    assert (old.revision, new.revision) == tuple(commit.oid for commit in repository.commits)
    assert new.earlier is not None
    assert new.earlier.revision == old.revision
    assert hub.adapters.get("birds/1").base.fingerprint == old.fingerprint
    hub.repositories.push("birds", "ana/birds")
    record = json.loads(remote.repositories["ana/birds"].commits[-1].files["finch.json"])
    assert record["adapter"]["base"]["revision"] == old.revision
    assert hub.repositories.pull("ana/birds", name="guest").version.base.fingerprint == old.fingerprint


def _answer(body: bytes, status: str = "200 OK", more: bytes = b"") -> bytes:
    return b"HTTP/1.1 %s\r\n%sContent-Length: %d\r\n\r\n%s" % (status.encode(), more, len(body), body)


NONSENSE = {
    "page": _answer(b"<html>"),
    "empty": _answer(b""),
    "not UTF-8": _answer(b"\xff\xfe{"),
    "nested": _answer(b"[" * 100_000),
    "list": _answer(b"[]"),
    "null": _answer(b"null"),
    "number": _answer(b"5"),
    "siblings": _answer(b'{"id": "a/b", "siblings": [5], "sha": "%s"}' % (b"c" * 40)),
    "siblings as a text": _answer(b'{"id": "a/b", "siblings": "ab", "sha": "%s"}' % (b"c" * 40)),
    "no commit": _answer(b'{"id": "a/b", "siblings": []}'),
    "odd time": _answer(b'{"id": "a/b", "lastModified": "yesterday", "sha": "%s"}' % (b"c" * 40)),
    "redirect to itself": _answer(b"", "302 Found", b"Location: PATH\r\n"),
    "redirect nowhere": _answer(b"", "307 Temporary Redirect"),
    "redirect to an odd address": _answer(b"", "301 Moved Permanently", b"Location: http://[::1\r\n"),
    "cut off": _answer(b"[]").replace(b"Length: 2", b"Length: 200"),
    "no HTTP": b"220 mail.example ESMTP\r\n",
    "end": b" ",
    "bad gzip": _answer(b"{}", more=b"Content-Encoding: gzip\r\n"),
    "proxy": _answer(b"<html>", "407 Proxy Authentication Required"),
    "error without sense": _answer(b"[[5]]", "418 Teapot", b"Content-Type: application/json\r\n"),
}


@pytest.mark.parametrize("nonsense", NONSENSE)
def test_answers_without_sense_are_no_internal_errors(
    nonsense: str, birds: Hub, remote: HuggingFace, capfd: pytest.CaptureFixture[str]
) -> None:
    remote.nonsense = NONSENSE[nonsense]
    match = r"(?s)could not (push|pull|fetch).*(127\.0\.0\.1:|answered 4).*\("
    for act in (
        lambda: birds.repositories.push("birds", "ana/birds"),
        lambda: birds.repositories.pull("ana/birds", name="guest"),
        lambda: birds.repositories.pull("ana/birds@v1", name="guest"),
        lambda: birds.bases.add("ana/base"),
    ):
        with pytest.raises(errors.Unavailable, match=match):
            act()
    assert WRITER not in "".join(capfd.readouterr())


def test_state_that_keeps_a_version_from_use_comes_with_it(
    birds: Hub, remote: HuggingFace, open_hub: OpenHub, tiny_folder: Path
) -> None:
    with birds._stores.database.write() as session:
        session.execute(sa.update(tables.AdapterVersion).values(state="below_retention"))
    with pytest.warns(errors.FinchWarning, match="birds/1 is below_retention: a pull takes over"):
        birds.repositories.push("birds/1", "ana/birds")
    other = open_hub("other")
    other.bases.add(tiny_folder, name="tiny", public_id="org/tiny")
    pulled = other.repositories.pull("ana/birds", name="birds").version
    assert (pulled.state, pulled.state_elsewhere) == ("below_retention", "below_retention")


def set_state(hub: Hub, state: str, number: int = 1) -> None:
    with hub._stores.database.write() as session:
        of_number = tables.AdapterVersion.number == number
        session.execute(sa.update(tables.AdapterVersion).where(of_number).values(state=state))


@pytest.mark.filterwarnings("ignore:birds/1 is below_retention")
def test_push_and_pull_correct_a_state_that_changed(
    birds: Hub, remote: HuggingFace, open_hub: OpenHub, tiny_folder: Path
) -> None:
    set_state(birds, "below_retention")
    old = birds.repositories.push("birds/1", "ana/birds")
    other = open_hub("other")
    other.bases.add(tiny_folder, name="tiny", public_id="org/tiny")
    other.repositories.pull("ana/birds@v1", name="birds")

    for state, number in (("ready", 2), ("below_retention", 3)):
        set_state(birds, state)
        new = birds.repositories.push("birds/1", "ana/birds")
        assert (new.is_new, new.is_main, new.differs) == (True, True, ())
        assert remote.repositories["ana/birds"].tags == {"v1": new.commit}
        assert new.commit != old.commit
        again = birds.repositories.push("birds/1", "ana/birds")
        assert (again.is_new, again.commit) == (False, new.commit)
        for place in ("ana/birds@v1", "ana/birds"):
            pulled = other.repositories.pull(place, name="birds").version
            assert (pulled.number, pulled.state) == (number, state)


def test_corrected_state_of_an_older_version_leaves_main(
    birds: Hub, remote: HuggingFace, tiny_folder: Path, tmp_path: Path
) -> None:
    old = birds.repositories.push("birds/1", "ana/birds")
    import_another(birds, tiny_folder, tmp_path, name="birds", seed=1)
    newest = birds.repositories.push("birds/2", "ana/birds")
    set_state(birds, "quarantined")
    with pytest.warns(errors.FinchWarning, match="birds/1 is quarantined: a pull takes over its state"):
        new = birds.repositories.push("birds/1", "ana/birds")
    repository = remote.repositories["ana/birds"]
    assert (new.is_new, new.is_main) == (True, False)
    assert repository.tags == {"v1": new.commit, "v2": newest.commit}
    assert new.commit != old.commit
    assert repository.commits[-1].oid == newest.commit
    assert repository.branches == {}


@pytest.mark.filterwarnings("ignore:birds/1 is quarantined")
def test_state_that_this_hub_found_outlives_a_pull(
    birds: Hub, remote: HuggingFace, open_hub: OpenHub, tiny_folder: Path
) -> None:
    birds.repositories.push("birds/1", "ana/birds")
    other = open_hub("other")
    other.bases.add(tiny_folder, name="tiny", public_id="org/tiny")
    other.repositories.pull("ana/birds", name="birds")
    set_state(other, "quarantined")
    for state in ("quarantined", "ready"):  # two commits
        set_state(birds, state)
        birds.repositories.push("birds/1", "ana/birds")
        assert other.repositories.pull("ana/birds", name="birds").version.state == "quarantined"


def test_state_of_another_adapter_with_the_same_tag_stays(
    birds: Hub, remote: HuggingFace, open_hub: OpenHub, tiny_folder: Path
) -> None:
    pushed = birds.repositories.push("birds/1", "ana/birds")
    other = open_hub("other")
    other.bases.add(tiny_folder, name="tiny", public_id="org/tiny")
    other.repositories.pull("ana/birds", name="guest")
    set_state(other, "quarantined")
    with pytest.warns(errors.FinchWarning, match="guest/1 is quarantined, which the files there do not say"):
        again = other.repositories.push("guest/1", "ana/birds")
    assert (again.commit, again.is_new) == (pushed.commit, False)


SPOILED: dict[str, Callable[[Any], Any]] = {
    "no branches": lambda v: {n: x for n, x in v.items() if n != "branches"} if isinstance(v, dict) else v,
    "tree": lambda v: {"tree": v} if isinstance(v, list) else v,
    "size": lambda v: _change_files(v, size="x"),
    "name": lambda v: _change_files(v, rfilename=5, path=5),
    "large file": lambda v: _change_files(v, lfs={"size": 5}),
    "commit": lambda v: {**v, "sha": "../../c"} if "sha" in v else v,
    "commit that was made": lambda v: {n: x for n, x in v.items() if n != "commitOid"} if isinstance(v, dict) else v,
    "upload mode": lambda v: {"files": [5]} if "files" in v else v,
}  # fmt: skip


def _change_files(value: Any, **fields: Any) -> Any:
    if isinstance(value, list):
        return [{**file, **fields} for file in value]
    return {**value, "siblings": [{**file, **fields} for file in value["siblings"]]} if "siblings" in value else value


@pytest.mark.parametrize("spoiled", SPOILED)
def test_spoiled_answers_are_no_internal_errors(
    spoiled: str, birds: Hub, remote: HuggingFace, saved: Path, tiny_folder: Path
) -> None:
    remote.add("bob/bees", read_files(saved))
    remote.add("org/base", {path.name: path.read_bytes() for path in tiny_folder.iterdir() if path.is_file()})
    remote.spoil = SPOILED[spoiled]
    refused = []
    for act in (
        lambda: birds.repositories.push("birds", "ana/birds"),
        lambda: birds.repositories.push("birds", "bob/bees", main=True),
        lambda: birds.repositories.pull("bob/bees", name="guest", base="tiny"),
        lambda: birds.bases.add("org/base"),
    ):
        try:
            act()
        except errors.NotFound:
            assert spoiled == "commit"  # it is asked for again
        except errors.Unavailable as error:
            refused.append(str(error))
    assert refused
    assert all("127.0.0.1:" in text and "(check HF_ENDPOINT" in text for text in refused)


def test_version_of_a_commit_is_found_without_reading_the_others(database: Database) -> None:
    origins = [{"repository": "bob/owls", "revision": "main", "commit": f"{number:040x}"} for number in range(120)]
    base = registry.add_base(database)
    with database.write() as session:
        for number, origin in enumerate(origins):
            adapter_versions.create(
                session, name="guest", digest=registry.digest(f"{number}"), identity=registry.digest("x"), base=base,
                kind="import", lineage=values.Lineage(environment={"pulled": origin}),
            )  # fmt: skip
    registry.add_version(database, "other", lineage=values.Lineage(environment={"pulled": origins[0]}))
    registry.delete_version(database, "guest", 6)
    statements: list[str] = []
    with database.read() as session:
        sa.event.listen(session.connection(), "before_cursor_execute", lambda *args: statements.append(args[2]))
        found = pulling.find_pulled(session, "guest", origins[2])
        assert found is not None
        assert found.reference == "guest/3"
        assert len(statements) == 4, "by the name, the text, the id, and with its parents"
        assert pulling.find_pulled(session, "guest", origins[5]) is None, "its version is deleted"
        assert pulling.find_pulled(session, "guest", {**origins[2], "repository": "eve/owls"}) is None
        assert pulling.find_pulled(session, "nothing", origins[2]) is None
    if database.is_sqlite:
        registry.change_rows(database, "UPDATE adapter_versions SET environment = '{' WHERE number = 8")
    again = registry.add_version(database, "guest", lineage=values.Lineage(environment={"pulled": origins[2]}))
    with database.read() as session:
        found = pulling.find_pulled(session, "guest", origins[2])
    assert found is not None
    assert found.reference == again.reference
