-- The first schema. This one file serves SQLite and PostgreSQL, therefore: TEXT, BIGINT and BYTEA only; instants are
-- microseconds since 1970 UTC; UUIDs and JSON are TEXT; truth is 0 or 1. A statement ends with a semicolon at the end of
-- its line. Names are found by their lower-cased *_key; the spelling beside it is for people. There are no foreign keys:
-- the verbs that delete name everything that goes, and operations and cancels outlive what they are about.

CREATE TABLE settings (
  name TEXT NOT NULL PRIMARY KEY,
  value TEXT NOT NULL
);

CREATE TABLE subscriptions (
  subscription_key TEXT NOT NULL PRIMARY KEY,
  id TEXT NOT NULL,
  display_name TEXT NOT NULL,
  created_at BIGINT NOT NULL
);

CREATE TABLE resource_groups (
  subscription_key TEXT NOT NULL,
  name_key TEXT NOT NULL,
  subscription_id TEXT NOT NULL,
  name TEXT NOT NULL,
  location TEXT NOT NULL,
  tags TEXT NOT NULL, -- JSON object
  managed_by TEXT,
  created_at BIGINT NOT NULL,
  PRIMARY KEY (subscription_key, name_key)
);

CREATE TABLE principals (
  id TEXT NOT NULL PRIMARY KEY, -- the object id
  client_id TEXT NOT NULL UNIQUE,
  name_key TEXT NOT NULL UNIQUE,
  name TEXT NOT NULL,
  role TEXT NOT NULL,
  enabled BIGINT NOT NULL,
  version BIGINT NOT NULL,
  created_at BIGINT NOT NULL
);

CREATE TABLE principal_secrets (
  principal_id TEXT NOT NULL,
  secret_sha256 BYTEA NOT NULL,
  PRIMARY KEY (principal_id, secret_sha256)
);

CREATE TABLE enrolment_tokens (
  token_sha256 BYTEA NOT NULL PRIMARY KEY,
  subscription_id TEXT NOT NULL,
  resource_group TEXT NOT NULL,
  uses_left BIGINT NOT NULL,
  expires_at BIGINT NOT NULL,
  created_by TEXT NOT NULL,
  created_at BIGINT NOT NULL
);

-- A machine is its UUID. Where it is found stands apart, because one machine may have two ARM ids: an instance of a
-- Flexible scale set is also a virtual machine.
CREATE TABLE machines (
  id TEXT NOT NULL PRIMARY KEY,
  location TEXT NOT NULL,
  tags TEXT NOT NULL, -- JSON object
  identity_key BYTEA NOT NULL,
  sealing_key BYTEA NOT NULL,
  sealing_key_id TEXT NOT NULL,
  epoch TEXT NOT NULL, -- of the agent's state directory
  journal_sequence BIGINT NOT NULL,
  facts TEXT NOT NULL, -- JSON object
  created_at BIGINT NOT NULL,
  connected BIGINT NOT NULL,
  owner_replica TEXT NOT NULL DEFAULT '', -- which control plane holds its channel; '' is the only one there is
  session_epoch BIGINT NOT NULL, -- and the how-manieth channel it is
  status_changed_at BIGINT NOT NULL,
  lease_expires_at BIGINT
);
CREATE INDEX machines_connected ON machines (id) WHERE connected = 1;
CREATE INDEX machines_lease ON machines (lease_expires_at, id) WHERE lease_expires_at IS NOT NULL;

CREATE TABLE machine_addresses (
  subscription_key TEXT NOT NULL,
  group_key TEXT NOT NULL,
  name_key TEXT NOT NULL,
  kind TEXT NOT NULL,
  machine_id TEXT NOT NULL,
  position BIGINT NOT NULL, -- 0: the one that it enrolled under
  subscription_id TEXT NOT NULL,
  resource_group TEXT NOT NULL,
  name TEXT NOT NULL,
  PRIMARY KEY (subscription_key, group_key, name_key, kind)
);
CREATE UNIQUE INDEX machine_addresses_machine ON machine_addresses (machine_id, position);

CREATE TABLE run_commands (
  incarnation_id TEXT NOT NULL PRIMARY KEY,
  machine_id TEXT NOT NULL,
  name_key TEXT NOT NULL,
  name TEXT NOT NULL,
  location TEXT NOT NULL,
  tags TEXT NOT NULL, -- JSON object
  generation BIGINT NOT NULL,
  execution_id TEXT NOT NULL, -- of that generation
  provisioning_state TEXT NOT NULL,
  created_by TEXT NOT NULL,
  created_at BIGINT NOT NULL,
  modified_by TEXT NOT NULL,
  modified_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX run_commands_name ON run_commands (machine_id, name_key);

-- What each generation was asked to run. Sealed values are referred to by id, in their order.
CREATE TABLE specs (
  incarnation_id TEXT NOT NULL,
  generation BIGINT NOT NULL,
  spec TEXT NOT NULL, -- JSON object
  PRIMARY KEY (incarnation_id, generation)
);

-- Only those that the current generation refers to: a replaced secret is gone.
CREATE TABLE sealed_values (
  id TEXT NOT NULL PRIMARY KEY,
  incarnation_id TEXT NOT NULL,
  name TEXT NOT NULL,
  field TEXT NOT NULL,
  key_id TEXT NOT NULL,
  ciphertext BYTEA NOT NULL
);
CREATE INDEX sealed_values_incarnation ON sealed_values (incarnation_id);

CREATE TABLE executions (
  id TEXT NOT NULL PRIMARY KEY,
  machine_id TEXT NOT NULL,
  incarnation_id TEXT NOT NULL,
  generation BIGINT NOT NULL,
  origin TEXT NOT NULL,
  principal_id TEXT NOT NULL,
  correlation_id TEXT NOT NULL,
  client_request_id TEXT,
  created_at BIGINT NOT NULL,
  deadline_at BIGINT NOT NULL,
  state TEXT NOT NULL,
  is_open BIGINT NOT NULL, -- 1 unless the state is terminal
  message TEXT NOT NULL,
  next_sequence BIGINT NOT NULL,
  start_number BIGINT NOT NULL,
  supersedes TEXT,
  delivered_at BIGINT,
  delivered_epoch TEXT,
  delivered_sequence BIGINT NOT NULL,
  started_at BIGINT,
  ended_at BIGINT,
  exit_code BIGINT,
  signal BIGINT,
  stdout_bytes BIGINT NOT NULL,
  stderr_bytes BIGINT NOT NULL,
  stdout_tail BYTEA NOT NULL,
  stderr_tail BYTEA NOT NULL,
  outputs TEXT NOT NULL, -- JSON object
  output_place TEXT NOT NULL
);
CREATE UNIQUE INDEX executions_generation ON executions (incarnation_id, generation);
CREATE INDEX executions_undelivered ON executions (machine_id, id) WHERE state = 'Pending' AND delivered_at IS NULL;
CREATE INDEX executions_delivered ON executions (machine_id, id) WHERE is_open = 1 AND delivered_at IS NOT NULL;
CREATE INDEX executions_overdue ON executions (deadline_at, id) WHERE state = 'Pending';

CREATE TABLE received_output (
  execution_id TEXT NOT NULL,
  stream TEXT NOT NULL,
  received_bytes BIGINT NOT NULL,
  PRIMARY KEY (execution_id, stream)
);

CREATE TABLE output_pieces (
  execution_id TEXT NOT NULL,
  stream TEXT NOT NULL,
  first_byte BIGINT NOT NULL, -- its offset in the stream
  data BYTEA NOT NULL,
  PRIMARY KEY (execution_id, stream, first_byte)
);

CREATE TABLE operations (
  id TEXT NOT NULL PRIMARY KEY,
  subscription_id TEXT NOT NULL,
  provider TEXT NOT NULL,
  location TEXT NOT NULL,
  resource_path TEXT NOT NULL,
  awaits TEXT NOT NULL,
  incarnation_id TEXT,
  execution_id TEXT,
  principal_id TEXT NOT NULL,
  state TEXT NOT NULL,
  error_code TEXT,
  error_message TEXT,
  started_at BIGINT NOT NULL,
  ended_at BIGINT,
  deadline_at BIGINT
);
CREATE INDEX operations_open ON operations (execution_id, id) WHERE state = 'InProgress' AND awaits <> 'deletion';
CREATE INDEX operations_deletion ON operations (incarnation_id, id) WHERE state = 'InProgress' AND awaits = 'deletion';
CREATE INDEX operations_overdue ON operations (deadline_at, id) WHERE state = 'InProgress' AND awaits = 'deletion';
CREATE INDEX operations_ended ON operations (ended_at, id) WHERE ended_at IS NOT NULL;

CREATE TABLE accepted_requests (
  principal_id TEXT NOT NULL,
  resource_key TEXT NOT NULL,
  client_request_id TEXT NOT NULL,
  body_sha256 BYTEA NOT NULL,
  operation_id TEXT,
  accepted_at BIGINT NOT NULL,
  PRIMARY KEY (principal_id, resource_key, client_request_id)
);
CREATE INDEX accepted_requests_age ON accepted_requests (accepted_at);

CREATE TABLE cancel_orders (
  execution_id TEXT NOT NULL PRIMARY KEY,
  machine_id TEXT NOT NULL,
  reason TEXT NOT NULL,
  forget BIGINT NOT NULL,
  ordered_at BIGINT NOT NULL
);
CREATE INDEX cancel_orders_machine ON cancel_orders (machine_id, ordered_at, execution_id);
