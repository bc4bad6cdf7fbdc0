"""Flower's configuration, for ``celery -A tasks.worker flower --conf=.../monitoring/flower.py``: ids to read, nothing to press.

Flower runs this file and takes what has the name of one of its options. What it can show is what the workers' events hold:
a task's arguments, which are ids and the names of queues, and a failure as tasks.failure words it.
"""

from app.settings import Settings, SettingsError

_user_and_password = Settings.load().flower_basic_auth
if _user_and_password is None:
    raise SettingsError("FLOWER_BASIC_AUTH is not set, and Flower is never open to all: set it to user:password.")

basic_auth = [_user_and_password]

# Its buttons and its API could stop workers, revoke hints and send any task: none of that is its business here.
read_only = True

# What it has seen is kept in memory alone, and not for long: the history is in the database.
persistent = False
max_tasks = 10_000
purge_offline_workers = 3600

tasks_columns = "name,uuid,state,args,received,started,runtime,exception,worker"
natural_time = False
