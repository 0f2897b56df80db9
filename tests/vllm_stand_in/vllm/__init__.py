"""A stand-in for vLLM, which wants a GPU: vLLM's rule of placeholders, its answers, and nothing of its speed.

Each image token of a prompt stands for one film and is widened to as many as the film has; where tokens and films differ in number it is an
error. It writes with transformers, one prompt at a time. VLLM_STAND_IN_NOTE: a file for a line a prompt. VLLM_STAND_IN names a fault:
`other_prompt` (reads another text than it tells), `other_weights` (takes over none, and has others), `wide` (widens the first token of a
film again, as vLLM does to a prompt with widened tokens), `eager` (gives the image token a far too great chance), `eager defiant` (and does
not heed bad_words).
"""

import copy
import json
import os
from types import SimpleNamespace

import torch

__version__ = "0.25.0"


class RequestOutput: ...


class SamplingParams:
    def __init__(self, n=1, temperature=1.0, top_p=1.0, max_tokens=16, bad_words=None, logprobs=None, seed=None, **more):
        self.n, self.temperature, self.top_p, self.max_tokens = n, temperature, top_p, max_tokens
        self.bad_words, self.logprobs, self.seed, self.more = bad_words or [], logprobs, seed, more


class LLM:
    def __init__(self, model, dtype="float32", max_model_len=None, **options):
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self.fault, self.longest = os.environ.get("VLLM_STAND_IN", ""), max_model_len
        self.model = AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32).eval()
        self.processor = AutoProcessor.from_pretrained(model)
        if size := (options.get("mm_processor_kwargs") or {}).get("size"):
            self.processor.image_processor.size = size
        self.film = self.model.config.image_token_id
        worker = SimpleNamespace(model_runner=SimpleNamespace(model=SimpleNamespace(load_weights=self.load_weights)))
        self.llm_engine = SimpleNamespace(model_executor=SimpleNamespace(driver_worker=worker))
        if self.fault == "other_weights":
            for values in self.model.parameters():
                values.data.add_(torch.randn_like(values) * values.std(correction=0))
        self.note(what="made", dtype=str(dtype), max_model_len=max_model_len, options=sorted(options))

    def note(self, **told):
        if path := os.environ.get("VLLM_STAND_IN_NOTE"):
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(told) + "\n")

    def load_weights(self, pairs):
        own = dict(self.model.named_parameters())
        for name, values in pairs:
            if self.fault != "other_weights":
                own[name].data.copy_(values)

    def sleep(self, level=1): ...

    def wake_up(self, tags=None): ...

    def reset_prefix_cache(self): ...

    def widened(self, tokens, counts):
        "Each image token in turn becomes as many as its film has."
        given = tokens.count(self.film)
        if self.fault == "wide" and given == len(counts):
            tokens = [one for token in tokens for one in [token] * (2 if token == self.film else 1)]
        elif given != len(counts):
            raise ValueError(f"Failed to apply prompt replacement: {given} image tokens for {len(counts)} films")
        counts, wide = list(counts), []
        for place, token in enumerate(tokens):
            again = self.fault == "wide" and place and tokens[place - 1] == self.film
            wide += [token] * counts.pop(0) if token == self.film and not again else [token]
        return wide

    def generate(self, prompts, sampling_params=None, use_tqdm=True):
        own = sampling_params if isinstance(sampling_params, list) else [sampling_params] * len(prompts)
        return [self.answer(prompt, wants) for prompt, wants in zip(prompts, own, strict=True)]

    def chat(self, messages, sampling_params=None, use_tqdm=True, **options):
        "Messages whose films are parts of type image_pil."
        prompts = []
        for conversation in messages:
            plain, films = copy.deepcopy([{**m, "content": ""} for m in conversation]), []
            for message, given in zip(plain, conversation, strict=True):
                message["content"] = []
                for part in [{"type": "text", "text": given["content"]}] if isinstance(given["content"], str) else given["content"]:
                    if part["type"] == "image_pil":
                        films.append(part["image_pil"])
                    message["content"].append({"type": "image"} if part["type"] == "image_pil" else part)
            text = self.processor.apply_chat_template(plain, tokenize=False, add_generation_prompt=True)
            tokens = self.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
            prompts.append({"prompt_token_ids": tokens, "multi_modal_data": {"image": films}})
        return self.generate(prompts, sampling_params, use_tqdm)

    def answer(self, prompt, wants):
        films = prompt.get("multi_modal_data", {}).get("image", [])
        films, features, counts = films if isinstance(films, list) else [films], {}, []
        if films:
            seen = self.processor.image_processor(images=[film.convert("RGB") for film in films], return_tensors="pt")
            features = {"pixel_values": seen["pixel_values"], "image_grid_thw": seen["image_grid_thw"]}
            counts = [int(grid.prod()) // self.processor.image_processor.merge_size**2 for grid in seen["image_grid_thw"]]
        tokens = self.widened(list(prompt["prompt_token_ids"]), counts)
        self.note(what="prompt", films=len(films), tokens_of_films=sum(counts), image_tokens=tokens.count(self.film), length=len(tokens))
        if self.longest and len(tokens) + wants.max_tokens > self.longest:
            raise ValueError(f"prompt of {len(tokens)} tokens and {wants.max_tokens} more are over max_model_len {self.longest}")
        read = torch.tensor([tokens if self.fault != "other_prompt" else [t if t == self.film else (t * 7) % 97 + 3 for t in tokens]])
        if self.fault == "wide":  # the model finds no place for what is too much, so that only a text is left
            read, features = torch.tensor([[token for token in tokens if token != self.film]]), {}
        if features:
            features["mm_token_type_ids"] = (read == self.film).int()
        outputs = [self.sample(read, features, wants) for _ in range(wants.n)]
        return SimpleNamespace(prompt_token_ids=tokens, outputs=outputs)

    @torch.no_grad()
    def sample(self, read, features, wants):
        "One completion, with the log-probability of each token after temperature and what is forbidden."
        from transformers import LogitsProcessorList

        words = [self.processor.tokenizer(word, add_special_tokens=False)["input_ids"] for word in wants.bad_words]
        assert all(len(word) == 1 for word in words), "bad words of one token are all that this stand-in forbids"

        def shaped(ids, scores):
            scores = scores / (wants.temperature or 1.0)
            if "eager" in self.fault:
                scores[:, self.film] = 50.0
            if "defiant" not in self.fault:
                scores[:, [word[0] for word in words]] = -float("inf")
            return scores

        chosen = {"do_sample": bool(wants.temperature), "top_k": 0, "top_p": 1.0, "temperature": 1.0, "max_new_tokens": wants.max_tokens}
        made = self.model.generate(
            input_ids=read,
            attention_mask=torch.ones_like(read),
            logits_processor=LogitsProcessorList([shaped]),
            output_scores=True,
            return_dict_in_generate=True,
            **chosen,
            **features,
        )
        tokens = made.sequences[0, read.shape[1] :].tolist()
        chances = [float(torch.log_softmax(scores[0].float(), -1)[token]) for token, scores in zip(tokens, made.scores, strict=True)]
        logprobs = [{token: SimpleNamespace(logprob=chance, rank=1)} for token, chance in zip(tokens, chances, strict=True)]
        text = self.processor.tokenizer.decode(tokens, skip_special_tokens=True)
        return SimpleNamespace(token_ids=tokens, logprobs=logprobs, text=text)
