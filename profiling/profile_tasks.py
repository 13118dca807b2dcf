"""What `make profile NAME=tasks` profiles: 20,000 tasks created in bulks of 1,000."""

import tempfile
from pathlib import Path

from models import database
from models.records import TaskSpec
from models.store import Store
from models.values import Command

if __name__ == "__main__":
    spec = TaskSpec(name="true on web1", command=Command(script="true"), target="web1", hosts=("web1",))
    with tempfile.TemporaryDirectory() as name:
        url = f"sqlite:///{Path(name) / 'profile.db'}"
        database.upgrade(url)
        store = Store.open(url)
        for _ in range(20):
            store.create_tasks([spec] * 1000)
        store.close()
