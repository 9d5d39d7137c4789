"""Weights that cannot be had: the reason, and what to do."""

from pathlib import Path

import pytest

from model.encoder import TransformersEncoder
from model.errors import BundleError
from model.hub import why_not
from model.speech_llm import SpeechLLM
from tests import tiny


def test_gated_weights_are_told_with_the_page_where_their_licence_is_accepted() -> None:
    # As transformers words it; nobody's licence can be refused without a network.
    error = OSError(
        "You are trying to access a gated repo.\nMake sure to have access to it at https://huggingface.co/meta-llama/x.\n401 Client Error."
    )
    text = why_not("meta-llama/Llama-3.2-3B-Instruct", error)
    assert "https://huggingface.co/meta-llama/Llama-3.2-3B-Instruct" in text
    assert "hf auth login" in text


@pytest.mark.parametrize("load", [SpeechLLM.load, TransformersEncoder.load])
def test_a_name_that_the_hub_does_not_give_is_told_as_such(load: object) -> None:
    assert callable(load)
    with pytest.raises(BundleError, match="check the name and the network"):
        load("no-such-laboratory/no-such-model")


def test_a_folder_without_weights_is_told_by_what_is_missing(tmp_path: Path) -> None:
    folder = tiny.llama_folder(tmp_path / "llm")
    (folder / "model.safetensors").unlink()
    with pytest.raises(BundleError, match="safetensors"):
        SpeechLLM.load(str(folder))


def test_a_language_model_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    folder = tiny.llama_folder(tmp_path / "llm")
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = None
    for file in folder.glob("chat_template*"):
        file.unlink()
    tokenizer.save_pretrained(folder)
    with pytest.raises(BundleError, match="instruct"):
        SpeechLLM.load(str(folder))
