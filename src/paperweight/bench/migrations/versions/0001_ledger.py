"""The first ledger: trials and verdicts, in which rows are added and never edited."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables, and on SQLite the triggers that refuse to edit rows."""
    op.create_table(
        "trial",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("key", sa.String(64), nullable=False, index=True),
        sa.Column("study", sa.Text, nullable=False, index=True),
        sa.Column("arm", sa.Text, nullable=False),
        sa.Column("seed", sa.Integer, nullable=False),
        sa.Column("budget", sa.Text, nullable=False),
        sa.Column("device", sa.Text, nullable=False),
        sa.Column("data", sa.Text),
        sa.Column("network", sa.Text),
        sa.Column("code", sa.JSON, nullable=False),
        sa.Column("arguments", sa.JSON, nullable=False),
        sa.Column("environment", sa.JSON, nullable=False),
        sa.Column("threads", sa.Integer),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("metrics", sa.JSON, nullable=False),
        sa.Column("wall_seconds", sa.Float, nullable=False),
        sa.Column("cpu_seconds", sa.Float, nullable=False),
        sa.Column("peak_bytes", sa.BigInteger),
        sa.Column("started_at", sa.Text, nullable=False),
        sa.Column("record", sa.JSON, nullable=False),
    )
    op.create_table(
        "verdict",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("study", sa.Text, nullable=False, index=True),
        sa.Column("budget", sa.Text, nullable=False),
        sa.Column("data", sa.Text),
        sa.Column("network", sa.Text),
        sa.Column("seeds", sa.Integer, nullable=False),
        sa.Column("verdict", sa.Text, nullable=False),
        sa.Column("made_at", sa.Text, nullable=False),
        sa.Column("record", sa.JSON, nullable=False),
    )
    if op.get_bind().dialect.name == "sqlite":
        for table in ("trial", "verdict"):
            for event in ("UPDATE", "DELETE"):
                op.execute(
                    f"CREATE TRIGGER {table}_no_{event.lower()} BEFORE {event} ON {table} "
                    f"BEGIN SELECT RAISE(ABORT, 'rows of the ledger are never edited'); END"
                )


def downgrade() -> None:
    """Drop the tables."""
    op.drop_table("verdict")
    op.drop_table("trial")
