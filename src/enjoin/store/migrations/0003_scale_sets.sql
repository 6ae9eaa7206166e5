-- Scale sets. An instance is a machine with two addresses, SET/ID (kind vmss) and SET_ID (kind vm); both name its set.

CREATE TABLE scale_sets (
  subscription_key TEXT NOT NULL,
  group_key TEXT NOT NULL,
  name_key TEXT NOT NULL,
  id TEXT NOT NULL,
  subscription_id TEXT NOT NULL,
  resource_group TEXT NOT NULL,
  name TEXT NOT NULL,
  location TEXT NOT NULL,
  tags TEXT NOT NULL, -- JSON object
  created_at BIGINT NOT NULL,
  PRIMARY KEY (subscription_key, group_key, name_key)
);

ALTER TABLE machine_addresses ADD COLUMN scale_set_key TEXT NOT NULL DEFAULT ''; -- '' is no instance
ALTER TABLE machine_addresses ADD COLUMN instance_number BIGINT; -- its ID: instances are listed in this order
CREATE UNIQUE INDEX machine_addresses_instance
ON machine_addresses (subscription_key, group_key, scale_set_key, instance_number) WHERE kind = 'vmss';
