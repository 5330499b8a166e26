#!/usr/bin/env python3
"""./dev bench run: tokens per second of `moonpool run` and of llama.cpp on the same file, prefill and decode, in one run.

Both sides answer the same chat greedily with two threads. The answers are compared first; then the sides take turns, several times,
and the best and the median of each are printed with the ratio. llama.cpp's threads spin at its barriers, so that beside other load
it falls by ten times and more: a run counts only if other processes used less than a tenth of the machine meanwhile, else it
is made again. With --anyway busy runs count too, and the output says so.
"""
import argparse
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import llama_cpp

ROOT = Path(__file__).resolve().parents[2]
MODEL = Path(os.environ.get("MOONPOOL_MODELS", ROOT / "models")) / "smollm2-135m-instruct.gguf"
MOONPOOL = Path(os.environ.get("MOONPOOL_BUILD", ROOT / "build/release")) / "moonpool"
NEW = 128
QUIET = 0.1  # of the machine
TEXT = ("Continue this ship's log in the same style for the next twelve days.\n\n" + " ".join(
    f"On day {day} the ship passed an island with {day * 3} trees, and the crew counted {day * 7} birds above the mast."
    for day in range(1, 13)))
PROMPT = ("<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
          f"<|im_start|>user\n{TEXT}<|im_end|>\n<|im_start|>assistant\n")


def machine_seconds():
    """CPU seconds that the machine has spent, and those of this process and its children."""
    fields = [int(field) for field in open("/proc/stat").readline().split()[1:9]]
    own = os.times()
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK"), sum(own[:4])


def others(work):
    """Runs work() and tells which part of the machine other processes used meanwhile."""
    busy, own, start = *machine_seconds(), time.perf_counter()
    result = work()
    later, own_later, end = *machine_seconds(), time.perf_counter()
    return result, max(0.0, (later - busy - own_later + own) / ((end - start) * os.cpu_count()))


class Llama:
    name = f"llama.cpp (llama-cpp-python {llama_cpp.__version__})"
    numerics = "int8 activations, f16 KV (its default)"

    def __init__(self, threads):
        self.model = llama_cpp.Llama(str(MODEL), n_ctx=2048, n_threads=threads, n_threads_batch=threads, n_batch=512, verbose=False)

    def run(self):
        ids = self.model.tokenize(PROMPT.encode(), add_bos=False, special=True)
        self.model.reset()
        start = time.perf_counter()
        self.model.eval(ids)
        middle = time.perf_counter()
        out = []
        for _ in range(NEW):
            out.append(self.model.sample(temp=0.0))
            if out[-1] == self.model.token_eos():
                break
            self.model.eval(out[-1:])
        end = time.perf_counter()
        text = self.model.detokenize(out).decode(errors="replace")
        return {"prompt": len(ids), "new": len(out), "prefill": len(ids) / (middle - start), "decode": len(out) / (end - middle), "text": text}


class Moonpool:
    name = "moonpool run"

    def __init__(self, threads):
        self.command = [MOONPOOL, "run", MODEL, TEXT, "--temperature", "0", "--max-tokens", str(NEW), "--threads", str(threads)]
        self.numerics = ""

    def run(self):
        done = subprocess.run(self.command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"{self.name} failed:\n{done.stderr}")
        found = re.search(r"prompt: (\d+) tokens, ([\d.]+) tokens/s; answer: (\d+) tokens \(\w+\), ([\d.]+) tokens/s; (.*)", done.stderr)
        self.numerics = found[5]
        return {"prompt": int(found[1]), "new": int(found[3]), "prefill": float(found[2]), "decode": float(found[4]), "text": done.stdout}


def common(a, b):
    """How many characters two texts share from the start."""
    n = 0
    while n < min(len(a), len(b)) and a[n] == b[n]:
        n += 1
    return n


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=8, help="wait so long for quiet at most")
    parser.add_argument("--anyway", action="store_true", help="count runs beside other load too")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count()))
    options = parser.parse_args()
    sides = [Moonpool(options.threads), Llama(options.threads)]
    first = [side.run() for side in sides]
    if first[0]["prompt"] != first[1]["prompt"]:
        sys.exit(f"the prompts differ: {first[0]['prompt']} and {first[1]['prompt']} tokens")
    texts = [result["text"].strip() for result in first]
    print(f"answers: the same for the first {common(*texts)} of {len(texts[0])} and {len(texts[1])} characters "
          "(the numerics differ, so greedy texts part sooner or later)")

    deadline, thrown, load, results = time.monotonic() + 60 * options.minutes, 0, 0.0, [[], []]
    while len(results[1]) < options.rounds:
        row = []
        for side in sides:
            while not options.anyway and others(lambda: time.sleep(0.3))[1] > QUIET:
                if time.monotonic() > deadline:
                    sys.exit(f"the machine was not quiet for {options.minutes:g} minutes: {len(results[0])} rounds, {thrown} thrown away")
            result, share = others(side.run)
            load = max(load, share)
            row.append(result if options.anyway or share <= QUIET else None)
        if None in row:
            thrown += 1
            continue
        for rows, result in zip(results, row):
            rows.append(result)

    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    print(f"{date.today()}, {cpu}, {os.cpu_count()} cores, {options.threads} threads, "
          f"{options.rounds} rounds in turns, {thrown} thrown away"
          + (f"; BUSY: other processes used up to {load:.0%} of the machine" if options.anyway else ""))
    for what, unit in (("prefill", "prompt"), ("decode", "new")):
        figures = [[row[what] for row in rows] for rows in results]
        for side, rows, values in zip(sides, results, figures):
            print(f"{what:8} {side.name:42} {rows[0][unit]:4} tokens   best {max(values):7.1f} tokens/s   median {statistics.median(values):7.1f}"
                  f"   ({side.numerics})")
        print(f"{what:8} ratio of the best {max(figures[0]) / max(figures[1]):.2f}, of the medians "
              f"{statistics.median(figures[0]) / statistics.median(figures[1]):.2f}")


if __name__ == "__main__":
    main()
