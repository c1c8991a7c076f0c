# The only file to adapt to a site: where Python is, what to load, and what a node without network needs.
# Sourced by every batch script from the repository's root.

# module load cuda    # if your site uses modules
export VEA_PYTHON="${VEA_PYTHON:-$PWD/.venv/bin/python}"

# The code to run: the copy that `vea submit` took, or the folder where sbatch was called.
export VEA_CODE="${VEA_CODE:-$PWD}"
export PYTHONPATH="$VEA_CODE${PYTHONPATH:+:$PYTHONPATH}" PYTHONSAFEPATH=1 # python -m would look in this folder first
in_code() { if [ -e "$VEA_CODE/$1" ]; then echo "$VEA_CODE/$1"; else echo "$1"; fi; }

export HF_HUB_OFFLINE=1 WANDB_MODE="${WANDB_MODE:-offline}" NO_ALBUMENTATIONS_UPDATE=1 PYTHONUNBUFFERED=1
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}"

# Rank 0 listens on the first node of the job.
MASTER_ADDR="$(scontrol show hostnames "${SLURM_JOB_NODELIST:?run this with sbatch}" | head -n 1)"
export MASTER_ADDR MASTER_PORT="${MASTER_PORT:-$((20000 + SLURM_JOB_ID % 20000))}"
