-- Entity tags, resource groups that are deleted with what is in them, and bounds on history. The release before this one
-- goes on with all of it: what it does not know has a default.

ALTER TABLE run_commands ADD COLUMN revision BIGINT NOT NULL DEFAULT 1; -- counts the writes of clients

ALTER TABLE resource_groups ADD COLUMN revision BIGINT NOT NULL DEFAULT 1;
ALTER TABLE resource_groups ADD COLUMN provisioning_state TEXT NOT NULL DEFAULT 'Succeeded';

CREATE INDEX enrolment_tokens_group ON enrolment_tokens (subscription_id, resource_group);
CREATE INDEX operations_group ON operations (id) WHERE state = 'InProgress' AND awaits = 'group-deletion';

ALTER TABLE executions ADD COLUMN output_dropped_at BIGINT; -- by retention; the record stays

-- Executions whose output files are still to be removed: said in the transaction that removes their rows.
CREATE TABLE output_removals (
  execution_id TEXT NOT NULL PRIMARY KEY
);
