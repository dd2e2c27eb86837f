"""Built-in plugin of Finch Hub; each entry is an example for plugin authors."""

from __future__ import annotations

from collections.abc import Sequence

from finch_hub.engine.data import row_formats
from finch_hub.engine.export import parameters as exporting
from finch_hub.plugins import descriptors, presets
from finch_hub.plugins.hooks import hookimpl
from finch_hub.plugins.resolvers import parameters as resolving
from finch_hub.plugins.strategies import parameters as composing
from finch_hub.specs.evaluation import AnswerParameters, LossParameters


@hookimpl
def finch_presets() -> Sequence[descriptors.Preset]:
    """Offer one preset for each measured domain."""
    return [presets.MEDICAL, presets.LEGAL, presets.CODE, presets.STYLE]


@hookimpl
def finch_strategies() -> Sequence[descriptors.Strategy]:
    """Offer the composition strategies."""
    return [
        descriptors.Strategy(
            name="linear",
            summary="Adds the weighted updates (task arithmetic) and truncates the sum to a rank.",
            target="finch_hub.plugins.strategies.linear:merge",
            parameters=composing.LinearParameters,
            scale_exponent=0.5,
            norm_preserving={"norm": "parents"},
        ),
        descriptors.Strategy(
            name="cat",
            summary="Stacks the weighted factors: the exact sum, whose rank is the sum of the ranks.",
            target="finch_hub.plugins.strategies.cat:merge",
            scale_exponent=0.5,
            exact=True,
        ),
        descriptors.Strategy(
            name="ties",
            summary="Trims small entries, elects a sign for each entry, and averages the values with that sign (TIES).",
            target="finch_hub.plugins.strategies.ties:merge",
            parameters=composing.TiesParameters,
        ),
        descriptors.Strategy(
            name="dare",
            summary="Drops random entries and rescales the others, then adds them or elects signs (DARE).",
            target="finch_hub.plugins.strategies.dare:merge",
            parameters=composing.DareParameters,
            scale_exponent=0.5,
            norm_preserving={"elect": True},
        ),
        descriptors.Strategy(
            name="tsv",
            summary="Makes the singular vectors of all parents orthogonal, which reduces interference (TSV-M).",
            target="finch_hub.plugins.strategies.tsv:merge",
            parameters=composing.TsvParameters,
            scale_exponent=0.2,
        ),
        descriptors.Strategy(
            name="regmean",
            summary="Fits every module to each parent's outputs on that parent's inputs (RegMean).",
            target="finch_hub.plugins.strategies.regmean:merge",
            parameters=composing.RegmeanParameters,
            needs_data=True,
        ),
        descriptors.Strategy(
            name="learned",
            summary="Fits the weights on a few validation examples of the parents (LoRA Soups).",
            target="finch_hub.plugins.strategies.learned:merge",
            parameters=composing.LearnedParameters,
            needs_data=True,
        ),
    ]


@hookimpl
def finch_resolvers() -> Sequence[descriptors.Resolver]:
    """Offer the conflict resolvers."""
    return [
        descriptors.Resolver(
            name="keep", summary="Changes nothing.", target="finch_hub.plugins.resolvers.keep:resolve"
        ),
        descriptors.Resolver(
            name="priority",
            summary="Removes from each update the directions of earlier parents.",
            target="finch_hub.plugins.resolvers.priority:resolve",
            parameters=resolving.PriorityParameters,
        ),
        descriptors.Resolver(
            name="drop",
            summary="Zeroes entries whose signs differ between parents.",
            target="finch_hub.plugins.resolvers.drop:resolve",
            parameters=resolving.DropParameters,
        ),
        descriptors.Resolver(
            name="calibrate",
            summary="Scales down output directions that several parents share (Pico).",
            target="finch_hub.plugins.resolvers.calibrate:resolve",
            parameters=resolving.ResolverParameters,
        ),
        descriptors.Resolver(
            name="orthogonalize",
            summary="Makes all updates orthogonal, without an order of parents.",
            target="finch_hub.plugins.resolvers.orthogonalize:resolve",
            parameters=resolving.OrthogonalizeParameters,
        ),
        descriptors.Resolver(
            name="refuse",
            summary="Refuses to compose if a measure of conflict exceeds a threshold.",
            target="finch_hub.plugins.resolvers.refuse:resolve",
            parameters=resolving.RefuseParameters,
        ),
    ]


_FORMAT_SUMMARIES = {
    "messages": "Conversations in the format of OpenAI and TRL: messages with role and content.",
    "prompt_completion": "A prompt and its completion.",
    "alpaca": "An instruction, an optional input, and an output.",
    "sharegpt": "Conversations in the format of ShareGPT: turns with from and value.",
    "text": "Plain text. All of it is learned.",
}


@hookimpl
def finch_dataset_formats() -> Sequence[descriptors.DatasetFormat]:
    """Offer the row formats of the engine."""
    return [
        descriptors.DatasetFormat(
            name=row_format.name,
            summary=_FORMAT_SUMMARIES[row_format.name],
            recognizes=row_format.fields,
            target=f"{row_formats.__name__}:{row_format.convert.__name__}",
        )
        for row_format in row_formats.BUILTIN
    ]


@hookimpl
def finch_base_sources() -> Sequence[descriptors.BaseSource]:
    """Offer GGUF files, local folders and the Hugging Face Hub; local sources first."""
    return [
        descriptors.BaseSource(
            name="gguf",
            summary="A GGUF file, which is converted to safetensors once.",
            matches="finch_hub.engine.bases.sources:is_gguf",
            target="finch_hub.engine.bases.sources:fetch_gguf",
        ),
        descriptors.BaseSource(
            name="folder",
            summary="A local folder of safetensors, config and tokenizer.",
            matches="finch_hub.engine.bases.sources:is_folder",
            target="finch_hub.engine.bases.sources:fetch_folder",
        ),
        descriptors.BaseSource(
            name="hub",
            summary="A model on the Hugging Face Hub, by id and revision.",
            matches="finch_hub.specs.bases:is_hub_id",
            target="finch_hub.engine.bases.sources:fetch_hub",
        ),
    ]


@hookimpl
def finch_export_formats() -> Sequence[descriptors.ExportFormat]:
    """Offer the formats of common serving systems."""
    return [
        descriptors.ExportFormat(
            name="peft",
            summary="A folder in PEFT's own format.",
            target="finch_hub.engine.export.peft:export_peft",
            parameters=exporting.PEFTParameters,
            base_model="label",
        ),
        descriptors.ExportFormat(
            name="vllm",
            summary="A PEFT folder that vLLM accepts: one rank, with the scale folded in.",
            target="finch_hub.engine.export.vllm:export_vllm",
            parameters=exporting.PEFTParameters,
            base_model="label",
        ),
        descriptors.ExportFormat(
            name="gguf",
            summary="A GGUF adapter for llama.cpp, with the scale folded in.",
            target="finch_hub.engine.export.gguf:export_gguf",
            parameters=exporting.GGUFParameters,
            needs_base=True,
        ),
        descriptors.ExportFormat(
            name="merged",
            summary="A standalone model folder with the adapter merged into its weights.",
            target="finch_hub.engine.export.merging:export_merged",
            parameters=exporting.MergedParameters,
            needs_base=True,
            base_model="hub_id",
        ),
        descriptors.ExportFormat(
            name="ollama",
            summary="A GGUF adapter with a Modelfile for Ollama.",
            target="finch_hub.engine.export.ollama:export_ollama",
            parameters=exporting.OllamaParameters,
            needs_base=True,
            takes_system=True,
        ),
    ]


@hookimpl
def finch_evaluators() -> Sequence[descriptors.Evaluator]:
    """Offer the measures that need only examples."""
    return [
        descriptors.Evaluator(
            name="held_out_loss",
            summary="Computes cross-entropy, perplexity and accuracy over the tokens of the answers.",
            target="finch_hub.engine.inference.evaluators:held_out_loss",
            parameters=LossParameters,
        ),
        descriptors.Evaluator(
            name="exact_answer",
            summary="Generates an answer to each prompt and counts the answers that contain the expected one.",
            target="finch_hub.engine.inference.evaluators:exact_answer",
            parameters=AnswerParameters,
        ),
    ]
