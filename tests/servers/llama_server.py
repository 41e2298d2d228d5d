"""Serve a tiny model of random weights with llama.cpp's own HTTP server: `python llama_server.py MODEL_FILE chat`.

With `embeddings` in the place of `chat` it answers with vectors.

Runs in the environment `.work/servers`. The variable SERVER_KEY has the key that requests have to bring. Writes the
address on standard output, and serves until standard input ends.
"""

import os
import sys

import gguf
import numpy
import xllamacpp

CONTEXT_TOKENS = 256  # of each slot
SLOTS = 4
BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]
CHAT_TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant: "

WIDTH, HIDDEN_WIDTH, HEADS = 32, 64, 2


def write_vocabulary(writer: gguf.GGUFWriter) -> int:
    """Write a vocabulary that has a token for each byte, so that any text can be asked; return its size."""
    control, byte = gguf.TokenType.CONTROL, gguf.TokenType.BYTE
    tokens = ["<unk>", "<s>", "</s>", *BYTE_TOKENS]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([gguf.TokenType.UNKNOWN, control, control, *[byte] * len(BYTE_TOKENS)])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(CHAT_TEMPLATE)
    return len(tokens)


def write_model(path: str) -> None:
    """Write a llama model of one block to `path`, of the same random weights each time."""
    writer = gguf.GGUFWriter(path, "llama")
    vocabulary = write_vocabulary(writer)
    writer.add_context_length(CONTEXT_TOKENS)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(HIDDEN_WIDTH)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    random = numpy.random.default_rng(1)
    shapes = {
        "token_embd": (vocabulary, WIDTH),
        "output": (vocabulary, WIDTH),
        "blk.0.attn_q": (WIDTH, WIDTH),
        "blk.0.attn_k": (WIDTH, WIDTH),
        "blk.0.attn_v": (WIDTH, WIDTH),
        "blk.0.attn_output": (WIDTH, WIDTH),
        "blk.0.ffn_gate": (HIDDEN_WIDTH, WIDTH),
        "blk.0.ffn_up": (HIDDEN_WIDTH, WIDTH),
        "blk.0.ffn_down": (WIDTH, HIDDEN_WIDTH),
    }
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", random.normal(0, 0.1, shape).astype(numpy.float32))
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", numpy.ones(WIDTH, numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main(path: str, task: str) -> None:
    """Write the model, serve it on a free port of the loopback interface."""
    write_model(path)
    settings = xllamacpp.CommonParams()
    settings.model.path = path
    settings.port = 0
    settings.n_ctx = CONTEXT_TOKENS * SLOTS
    settings.n_parallel = SLOTS
    settings.api_keys = [os.environ["SERVER_KEY"]]
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1  # threads would wait for each other, spinning
    settings.embedding = task == "embeddings"
    if settings.embedding:
        settings.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    server = xllamacpp.Server(settings)
    print(f"serving on {server.listening_address}", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
