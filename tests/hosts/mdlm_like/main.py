"""`python main.py mode=train` writes a checkpoint, `mode=sample_eval` prints samples."""

import dataloader
import diffusion
import hydra
import torch


def _load_from_checkpoint(config, tokenizer):
    return diffusion.Diffusion.load_from_checkpoint(config.eval.checkpoint_path, tokenizer=tokenizer, config=config)


def train(config, tokenizer) -> None:
    model = diffusion.Diffusion(config, tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.optim.lr)
    loader, _ = dataloader.get_dataloaders(config, tokenizer)
    step = 0
    while step < config.trainer.max_steps:
        for batch in loader:
            optimizer.zero_grad()
            model._loss(batch["input_ids"]).backward()
            optimizer.step()
            model.ema.update(model.weights())
            step += 1
    torch.save(
        {"state_dict": model.state_dict(), "ema": {"shadow_params": model.ema.shadow_params}},
        config.eval.checkpoint_path,
    )


@hydra.main(version_base=None, config_path="configs", config_name="config")
def main(config) -> None:
    torch.manual_seed(config.seed)
    tokenizer = dataloader.get_tokenizer(config)
    if config.mode == "train":
        return train(config, tokenizer)
    model = _load_from_checkpoint(config, tokenizer)
    if config.sampling.semi_ar:
        return print(model.restore_model_and_semi_ar_sample(1, 1))
    samples = model.restore_model_and_sample(num_steps=config.sampling.steps)
    print("Text samples:", tokenizer.batch_decode(samples))


if __name__ == "__main__":
    main()
