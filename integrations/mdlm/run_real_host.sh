#!/usr/bin/env bash
# Train, put a head on, and sample with and without PRISM on an unedited checkout of MDLM or ReMDM, on a CPU.
#
#   integrations/mdlm/run_real_host.sh CHECKOUT FOLDER > run.log
#
# Needs an environment with the hosts' requirements (README.md) and this package. FOLDER receives data, checkpoints and
# heads; a checkpoint that lies there is not trained again. Takes some minutes on one core.
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd)
checkout=$(cd "$1" && pwd)
mkdir -p "$2" && folder=$(cd "$2" && pwd)
export PYTHONPATH="$here/tests/hosts/stand_ins${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 PYTHONWARNINGS=ignore
run=$folder/$(basename "$checkout")
checkpoint=${CHECKPOINT:-$run/checkpoints/last.ckpt}
mkdir -p "$run"

host=(data=text8 "data.cache_dir=$folder/data" model=tiny model.hidden_size=96 model.cond_dim=64 model.n_blocks=3
  model.n_heads=4 model.length=64 model.dropout=0.0 loader.global_batch_size=32 loader.eval_global_batch_size=32
  loader.num_workers=1 loader.pin_memory=False wandb=null trainer.accelerator=cpu trainer.precision=32
  "eval.gen_ppl_eval_model_name_or_path=$folder/data/gpt2" training.ema=0.995
  "hydra.run.dir=$run" "checkpointing.save_dir=$run")
sample=(mode=sample_eval "eval.checkpoint_path=$checkpoint" sampling.num_sample_batches=1 sampling.steps="${STEPS:-32}"
  loader.global_batch_size=128 loader.eval_global_batch_size=128)
if grep -q generated_seqs_path "$checkout/configs/config.yaml"; then sample+=("sampling.generated_seqs_path=$run/seqs.json"); fi

say() { printf '\n$ %s\n' "$*"; }
quiet() { tr '\r' '\n' | grep -v -e 'it/s' -e '[│┃━┏└├╭╰]' | sed -e "s#$folder#FOLDER#g" -e "s#$here#PRISM#g" -e "s#$checkout#CHECKOUT#g"; }

echo "checkout: $(git -C "$checkout" remote get-url origin 2>/dev/null | sed 's#.*[/+]\(mdlm\|remdm\).*#\1#') $(git -C "$checkout" rev-parse HEAD)"
echo "edited files: $(git -C "$checkout" status --porcelain | wc -l)"
python - <<'PY'
import platform
from importlib.metadata import version
print("python", platform.python_version(), *(f"{p} {version(p)}" for p in ("torch", "lightning", "hydra-core", "transformers")))
PY
[ -d "$folder/data/gpt2" ] || python "$here/tests/hosts/make_text8.py" "$folder/data" >&2
python "$here/tests/hosts/judge_text8.py" "$folder/data"
cd "$checkout"
if [ ! -f "$checkpoint" ]; then
  say "python main.py mode=train …"
  python main.py mode=train "${host[@]}" optim.lr=2e-3 lr_scheduler.num_warmup_steps=100 trainer.max_steps=1200 \
    trainer.val_check_interval=400 trainer.limit_val_batches=8 eval.generate_samples=False 2>&1 | quiet | grep "val/nll'"
fi
if [ ! -f "$folder/head/head.safetensors" ]; then
  say "python -m prism_plugin.integrations.mdlm.train out=FOLDER/head train.steps=300 train.batch_size=32 quality.k=4 -- …"
  python -m prism_plugin.integrations.mdlm.train "out=$folder/head" train.steps=300 train.batch_size=32 quality.k=4 \
    train.eval_every=100 train.eval_texts=128 -- "${host[@]}" "eval.checkpoint_path=$checkpoint" 2>&1 | quiet | grep -e ^step -e head
fi
head=prism.head=$folder/head
for words in "" "+prism=mdlm" "+prism=random-remask prism.num_remask=1" "+prism=default $head prism.eta=.02" \
  "+prism=prism $head prism.num_remask=1" "+prism=prism-evidence $head prism.tau=.3" "+prism=self-likelihood prism.num_remask=1"; do
  say "python main.py mode=sample_eval … $(echo "$words" | sed "s#$folder#FOLDER#")"
  # shellcheck disable=SC2086
  python main.py "${host[@]}" "${sample[@]}" $words >"$run/out.txt" 2>&1 || { tail -5 "$run/out.txt"; exit 1; }
  quiet <"$run/out.txt" | grep -o -e 'prism=.*' || true
  python "$here/tests/hosts/judge_text8.py" "$folder/data" "$run/out.txt" "$run/seqs.json"
done
say "python main.py mode=sample_eval … +prism=nope"
if python main.py "${host[@]}" "${sample[@]}" +prism=nope >"$run/out.txt" 2>&1; then exit 1; else echo "exit code $?"; fi
grep -e "Could not find" "$run/out.txt"
say "python main.py mode=sample_eval … +prism=default sampling.semi_ar=True"
if python main.py "${host[@]}" "${sample[@]}" +prism=default sampling.semi_ar=True >"$run/out.txt" 2>&1; then exit 1; else echo "exit code $?"; fi
grep -o -e "ConfigError: .*" "$run/out.txt"
echo "edited files: $(git -C "$checkout" status --porcelain | wc -l)"
