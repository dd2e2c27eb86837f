"""What comes with Finch Hub, offered through the same hooks as any plugin's; each entry is an example to copy."""

from __future__ import annotations

from collections.abc import Sequence

from finch_hub.engine.export import parameters as exporting
from finch_hub.plugins.descriptors import (
    BaseSource,
    DatasetFormat,
    Evaluator,
    ExportFormat,
    Listener,
    Preset,
    Resolver,
    Strategy,
)
from finch_hub.plugins.hooks import hookimpl
from finch_hub.plugins.presets import code, legal, medical, style
from finch_hub.plugins.resolvers import parameters as resolving
from finch_hub.plugins.strategies import parameters as composing
from finch_hub.specs.evaluation import AnswerParameters, LossParameters


@hookimpl
def finch_presets() -> Sequence[Preset]:
    """Offer a preset for each of the domains that ship with measured figures."""
    return [medical.PRESET, legal.PRESET, code.PRESET, style.PRESET]


@hookimpl
def finch_strategies() -> Sequence[Strategy]:
    """Offer the strategies that work in the core space."""
    return [
        Strategy(
            name="linear",
            summary="The weighted sum of the updates (task arithmetic), cut to the rank asked for.",
            target="finch_hub.plugins.strategies.linear:merge",
            parameters=composing.LinearParameters,
            overshoot=0.5,
            normed={"norm": "parents"},
        ),
        Strategy(
            name="cat",
            summary="The weighted sum of the updates, exact: the factors are stacked and the ranks add up.",
            target="finch_hub.plugins.strategies.cat:merge",
            parameters=composing.CatParameters,
            overshoot=0.5,
            exact=True,
        ),
        Strategy(
            name="ties",
            summary="Trims small entries, elects a sign for each, and averages those that agree.",
            target="finch_hub.plugins.strategies.ties:merge",
            parameters=composing.TiesParameters,
        ),
        Strategy(
            name="dare",
            summary="Drops entries at random and rescales the rest, then sums or elects signs.",
            target="finch_hub.plugins.strategies.dare:merge",
            parameters=composing.DareParameters,
            overshoot=0.5,
            normed={"elect": True},
        ),
        Strategy(
            name="tsv",
            summary="Makes the parents' singular vectors orthogonal to each other, so that they stop interfering.",
            target="finch_hub.plugins.strategies.tsv:merge",
            parameters=composing.TsvParameters,
            overshoot=0.2,
        ),
        Strategy(
            name="regmean",
            summary="Fits every module to answer each parent's inputs as that parent does (RegMean).",
            target="finch_hub.plugins.strategies.regmean:merge",
            parameters=composing.RegmeanParameters,
            needs_data=True,
        ),
        Strategy(
            name="learned",
            summary="Fits the weights on a few validation examples of the parents.",
            target="finch_hub.plugins.strategies.learned:merge",
            parameters=composing.LearnedParameters,
            needs_data=True,
        ),
    ]


@hookimpl
def finch_resolvers() -> Sequence[Resolver]:
    """Offer the resolvers that work in the core space."""
    return [
        Resolver(
            name="keep",
            summary="Leaves every update as it is.",
            target="finch_hub.plugins.resolvers.keep:resolve",
            parameters=resolving.KeepParameters,
        ),
        Resolver(
            name="priority",
            summary="Projects each update onto what the ones before it leave free.",
            target="finch_hub.plugins.resolvers.priority:resolve",
            parameters=resolving.PriorityParameters,
        ),
        Resolver(
            name="drop",
            summary="Zeroes the entries whose signs the parents dispute.",
            target="finch_hub.plugins.resolvers.drop:resolve",
            parameters=resolving.DropParameters,
        ),
        Resolver(
            name="calibrate",
            summary="Damps the output directions that several parents share (Pico).",
            target="finch_hub.plugins.resolvers.calibrate:resolve",
            parameters=resolving.CalibrateParameters,
        ),
        Resolver(
            name="orthogonalize",
            summary="Makes all updates orthogonal to each other, none before the others.",
            target="finch_hub.plugins.resolvers.orthogonalize:resolve",
            parameters=resolving.OrthogonalizeParameters,
        ),
        Resolver(
            name="refuse",
            summary="Composes nothing where a measure of conflict exceeds a threshold.",
            target="finch_hub.plugins.resolvers.refuse:resolve",
            parameters=resolving.RefuseParameters,
        ),
    ]


@hookimpl
def finch_dataset_formats() -> Sequence[DatasetFormat]:
    """Offer the row formats that are in common use, the most telling fields first."""
    return [
        DatasetFormat(
            name="messages",
            summary="Conversations as OpenAI and TRL write them: messages of role and content.",
            recognizes=frozenset({"messages"}),
            target="finch_hub.engine.data.formats:messages",
        ),
        DatasetFormat(
            name="prompt_completion",
            summary="A prompt and its completion.",
            recognizes=frozenset({"prompt", "completion"}),
            target="finch_hub.engine.data.formats:prompt_completion",
        ),
        DatasetFormat(
            name="alpaca",
            summary="An instruction, perhaps with an input, and its output.",
            recognizes=frozenset({"instruction", "output"}),
            target="finch_hub.engine.data.formats:alpaca",
        ),
        DatasetFormat(
            name="sharegpt",
            summary="Conversations as ShareGPT writes them: turns of from and value.",
            recognizes=frozenset({"conversations"}),
            target="finch_hub.engine.data.formats:sharegpt",
        ),
        DatasetFormat(
            name="text",
            summary="Plain text that is learnt whole.",
            recognizes=frozenset({"text"}),
            target="finch_hub.engine.data.formats:text",
        ),
    ]


@hookimpl
def finch_base_sources() -> Sequence[BaseSource]:
    """Offer local folders, GGUF files and the Hugging Face Hub, what is here before what must be fetched."""
    return [
        BaseSource(
            name="gguf",
            summary="A GGUF file, converted to safetensors once.",
            matches="finch_hub.engine.bases.sources:is_gguf",
            target="finch_hub.engine.bases.sources:fetch_gguf",
        ),
        BaseSource(
            name="folder",
            summary="A local folder of safetensors, config and tokenizer.",
            matches="finch_hub.engine.bases.sources:is_folder",
            target="finch_hub.engine.bases.sources:fetch_folder",
        ),
        BaseSource(
            name="hub",
            summary="A model of the Hugging Face Hub, by id and revision.",
            matches="finch_hub.engine.bases.sources:is_hub_id",
            target="finch_hub.engine.bases.sources:fetch_hub",
        ),
    ]


@hookimpl
def finch_export_formats() -> Sequence[ExportFormat]:
    """Offer the formats of the systems that adapters are usually served with."""
    return [
        ExportFormat(
            name="peft",
            summary="A folder as PEFT itself saves it.",
            target="finch_hub.engine.export.peft:write",
            parameters=exporting.ExportParameters,
        ),
        ExportFormat(
            name="vllm",
            summary="A PEFT folder within vLLM's rules: one rank, scale folded in.",
            target="finch_hub.engine.export.vllm:write",
            parameters=exporting.VLLMParameters,
        ),
        ExportFormat(
            name="gguf",
            summary="A GGUF adapter for llama.cpp, scale folded in.",
            target="finch_hub.engine.export.gguf:write",
            parameters=exporting.GGUFParameters,
            needs_base=True,
        ),
        ExportFormat(
            name="merged",
            summary="A standalone model folder with the adapter merged into its weights.",
            target="finch_hub.engine.export.merged:write",
            parameters=exporting.MergedParameters,
            needs_base=True,
        ),
        ExportFormat(
            name="ollama",
            summary="A GGUF adapter with the Modelfile that Ollama builds from.",
            target="finch_hub.engine.export.ollama:write",
            parameters=exporting.OllamaParameters,
            needs_base=True,
        ),
    ]


@hookimpl
def finch_evaluators() -> Sequence[Evaluator]:
    """Offer the measures that need nothing but the examples."""
    return [
        Evaluator(
            name="held_out_loss",
            summary="Cross-entropy, perplexity and accuracy over the answers' tokens.",
            target="finch_hub.engine.inference.evaluators:held_out_loss",
            parameters=LossParameters,
        ),
        Evaluator(
            name="exact_answer",
            summary="Generates an answer to each prompt and counts those that contain the expected one.",
            target="finch_hub.engine.inference.evaluators:exact_answer",
            parameters=AnswerParameters,
        ),
    ]


@hookimpl
def finch_listeners() -> Sequence[Listener]:
    """Offer the log line that every change of a job's state leaves."""
    return [
        Listener(
            name="log",
            summary="Writes one structured log line for each change of a job's state.",
            target="finch_hub.plugins.job_log:listen",
        )
    ]
