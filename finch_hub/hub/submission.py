"""Submission of checked jobs with their examples, in one transaction."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from finch_hub import errors
from finch_hub.hub.examples import StoredExamples, hold_sources, register_examples
from finch_hub.registry import artifact_lock, datasets, jobs, values
from finch_hub.specs.addresses import refuse_secrets
from finch_hub.specs.jobs import Job, JobSpec

if TYPE_CHECKING:
    from finch_hub.storage.stores import Stores
    from finch_hub.workers.messaging.dispatcher import Dispatcher


def submit(
    new: Sequence[values.NewJob], examples: Sequence[StoredExamples], *, stores: Stores, dispatcher: Dispatcher
) -> list[Job]:
    """Submit jobs, send their messages, and return them in order; see `registry.jobs.submit_many`.

    Args:
        examples: stored examples that the jobs read, and that are registered with them.
    """
    with stores.database.write() as session:
        if examples:
            # A row that is held first and registered then would be shared, and then locked, by several submitters.
            artifact_lock.share(session)
            datasets.lock_rows(session, {digest for part in examples for digest in (part.digest, *part.made_of)})
        hold_sources(session, examples)
        for stored in sorted(examples, key=lambda part: part.digest):  # locked in one order by all submitters
            register_examples(session, stored, stores, of_jobs=True)
        submitted = jobs.submit_many(session, new, owner_unfinished=stores.settings.owner_unfinished)
    dispatcher.dispatch(*submitted)
    return submitted


def check_secrets(spec: JobSpec, stores: Stores, *, stacklevel: int) -> None:
    """Refuse secrets in the parameters of a job, and warn of a system prompt that has one.

    The prompt is not changed, since the model is trained with it.

    Raises:
        InvalidSpec: a parameter has a secret.
    """
    for name in ("parameters", "resolver_parameters"):
        refuse_secrets(getattr(spec, name, None), where=name)
    system = getattr(spec, "system", None) or (getattr(spec, "parameters", None) or {}).get("system")
    if isinstance(system, str) and stores.redactor.clean(system) != system:
        what = "the system prompt has what looks like a secret, and is stored and shown with the job"
        fix = "leave secrets out; cards, bundles and pushes have it masked"
        warnings.warn(errors.FinchWarning(f"{what} ({fix})"), stacklevel=stacklevel + 1)
