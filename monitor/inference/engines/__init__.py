"""The engines that hold the language model: vLLM or transformers in this process, or a vLLM server."""
