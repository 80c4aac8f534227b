"""The scripts that run in Redis. Each is atomic, and uses the server's own clock.

A script that only reads also deletes a key that never exists. A replica, whose data may be old, refuses to do that. If
something may have to be counted after the answer, the script sets that key instead, only if it exists. A server that
is full refuses that, too.
"""

from hashlib import sha1

from qmail_smtpd.relay.redisline import words

LOGIN_PREFIX = b"ucspi-smtpd:login:"
COUNT_PREFIX = b"ucspi-smtpd:count:"
NEVER = b"ucspi-smtpd:never"
WARNED = b"ucspi-smtpd:warned"


class Script:
    """How a command begins that runs a script: by its name, which a server knows that has loaded it, or by its text."""

    __slots__ = ("by_name", "by_text")

    def __init__(self, text: bytes) -> None:
        self.by_name = words(b"EVALSHA", sha1(text, usedforsecurity=False).hexdigest().encode())
        self.by_text = words(b"EVAL", text)


# KEYS: the login's. ARGV: the window, and the parts of the entry (entry.py) before and after its two times.
ALLOW = Script(b"""
local now, window = tonumber(redis.call('TIME')[1]), tonumber(ARGV[1])
if window < 1 then return redis.call('DEL', KEYS[1]) end
local times = string.format('%d %d', now, now + window)
return redis.call('SET', KEYS[1], ARGV[2] .. times .. ARGV[3], 'EX', window)
""")

# KEYS: the login's, and NEVER. Returns the entry, and the server's time.
CHECK = Script(b"""
redis.call('DEL', KEYS[2])
return {redis.call('GET', KEYS[1]), redis.call('TIME')[1]}
""")

# KEYS: one for each limit. ARGV: each limit and its seconds, then how many are wanted. Returns two numbers as a text:
# how many are granted, and which limit has stopped the others, or 0. A window is that of window.py, as a hash.
TAKE = Script(b"""
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local granted, stopped, buckets = tonumber(ARGV[#ARGV]), 0, {}
for i, key in ipairs(KEYS) do
  local bucket, used = math.floor(now * 60 / ARGV[2 * i]), 0
  local found = redis.call('HGETALL', key)
  for j = 1, #found, 2 do
    if tonumber(found[j]) < bucket - 60 then
      redis.call('HDEL', key, found[j])
    else
      used = used + found[j + 1]
    end
  end
  local room = math.max(ARGV[2 * i - 1] - used, 0)
  if room < granted then granted, stopped = room, i end
  buckets[i] = string.format('%.0f', bucket)
end
for i, key in ipairs(KEYS) do
  if granted > 0 then
    redis.call('HINCRBY', key, buckets[i], granted)
    redis.call('EXPIRE', key, math.ceil(ARGV[2 * i] * 61 / 60) + 1)
  end
end
return string.format('%d %d', granted, stopped)
""")

# KEYS: the windows', and NEVER. ARGV: the seconds of each window. Returns what each has counted.
USED_AFTER = b"""
local time = redis.call('TIME')
local now, answer = time[1] + time[2] / 1000000, {}
redis.call(%b)
for i, seconds in ipairs(ARGV) do
  local first, used = math.floor(now * 60 / seconds) - 60, 0
  local found = redis.call('HGETALL', KEYS[i])
  for j = 1, #found, 2 do
    if tonumber(found[j]) >= first then used = used + found[j + 1] end
  end
  answer[i] = used
end
return answer
"""
USED = Script(USED_AFTER % b"'DEL', KEYS[#KEYS]")
USED_IF_WRITABLE = Script(USED_AFTER % b"'SET', KEYS[#KEYS], '', 'XX'")
