"""Twelve digits that count up or down, from anywhere: x_i = (a + i d) mod 10, d = 1 or -1."""

import torch


class Tokenizer:
    vocab_size = 10

    def batch_decode(self, rows) -> list[str]:
        return ["".join(str(int(token)) for token in row) for row in rows]


def get_tokenizer(config) -> Tokenizer:
    return Tokenizer()


def get_dataloaders(config, tokenizer, skip_train=False, skip_valid=False, valid_seed=None):
    generator = torch.Generator().manual_seed(1)
    start = torch.randint(10, (config.data.texts, 1), generator=generator)
    stride = 1 - 2 * torch.randint(2, (config.data.texts, 1), generator=generator)
    texts = (start + stride * torch.arange(config.model.length)) % 10
    rows = [{"input_ids": text, "attention_mask": torch.ones_like(text)} for text in texts]
    train = torch.utils.data.DataLoader(rows, batch_size=config.loader.batch_size, shuffle=True)
    return train, torch.utils.data.DataLoader(rows[:64], batch_size=config.loader.eval_batch_size)
