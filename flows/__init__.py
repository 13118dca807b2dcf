"""The way into Prefect: flows, worker, artifacts. Nothing else imports prefect."""
