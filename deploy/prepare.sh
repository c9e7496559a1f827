#!/bin/sh
# Before the first `docker compose up`: makes the secrets and says whose files the containers write.
# Run it again at any time; what is there stays.
set -eu
cd "$(dirname "$0")/.."

random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

# A secret reaches a container as the file that it is here. The folder keeps others of this machine out; the
# files are readable, since Postgres and Redis run as users of their own.
write() { # name value
  if [ ! -e "deploy/secrets/$1" ]; then
    printf '%s' "$2" > "deploy/secrets/$1"
    chmod 444 "deploy/secrets/$1"
    echo "made deploy/secrets/$1"
  fi
}

mkdir -p deploy/secrets deploy/tls/certs models_store
chmod 700 deploy/secrets
write postgres_password "$(random)"
write redis_password "$(random)"
# Migrations run as the owner of the tables, everything else as a role that the first migration makes.
write migration_url "postgresql://backtalk:$(cat deploy/secrets/postgres_password)@postgres:5432/backtalk"
write database_url "postgresql://backtalk_app:$(random)@postgres:5432/backtalk"
write redis_url "redis://:$(cat deploy/secrets/redis_password)@redis:6379/0"

# Not root in the containers, also where root runs this.
run_as=$(id -u)
if [ "$run_as" -eq 0 ]; then
  run_as=10001
  chown -R "$run_as:$run_as" models_store
fi
if ! grep -qs '^RUN_AS=' .env; then
  echo "RUN_AS=$run_as" >> .env
  echo "wrote RUN_AS=$run_as to .env"
fi
