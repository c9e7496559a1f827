#!/bin/sh
# The password goes into a file in memory: as an argument, every process could read it.
set -eu
umask 077
{
  cat /etc/redis/redis.conf
  printf 'requirepass %s\n' "$(cat /run/secrets/redis_password)"
} > /tmp/redis.conf
exec redis-server /tmp/redis.conf
