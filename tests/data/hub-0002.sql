BEGIN TRANSACTION;
CREATE TABLE adapter_versions (
	id INTEGER NOT NULL, 
	adapter_id INTEGER NOT NULL, 
	number INTEGER NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	identity VARCHAR(64) NOT NULL, 
	base_id INTEGER NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	job_id VARCHAR(32), 
	spec JSON NOT NULL, 
	metrics JSON NOT NULL, 
	train_digest VARCHAR(64), 
	validation_digest VARCHAR(64), 
	seed BIGINT, 
	versions JSON NOT NULL, 
	environment JSON NOT NULL, 
	card TEXT NOT NULL, 
	created_at VARCHAR(23) NOT NULL, 
	deleted_at VARCHAR(23), 
	CONSTRAINT pk_adapter_versions PRIMARY KEY (id), 
	CONSTRAINT ck_adapter_versions_state CHECK (state IN ('ready', 'quarantined', 'below_retention')), 
	CONSTRAINT fk_adapter_versions_adapter_id FOREIGN KEY(adapter_id) REFERENCES adapters (id), 
	CONSTRAINT fk_adapter_versions_base_id FOREIGN KEY(base_id) REFERENCES bases (id), 
	CONSTRAINT fk_adapter_versions_job_id FOREIGN KEY(job_id) REFERENCES jobs (id) ON DELETE SET NULL, 
	CONSTRAINT uq_adapter_versions_adapter_id_number UNIQUE (adapter_id, number)
);
INSERT INTO "adapter_versions" VALUES(1,1,1,'34756e0e2b72b568c51863a6b3878211d07b6d9f8edae4b5a237802a5edf5ef2','a31d4b6b8cff3019380236aa7141a5c3ba12dd7cef22fde11c8c7ba4262700c0',1,'train','ready','y7q24xwlccox3q26','{"kind":"train","adapter":"birds","base":{"source":"/home/ana/models/tiny","revision":null},"train":"ad208503246841f00e34dde4506ee5412517869ed44a0c240ff2fda074314634","validation":"02f09ce8fc5b0899e7ef753f22e3e86369be86209ad43326e929a82cbcf469e8","preset":null,"system":"You are a helpful assistant who knows birds.","lora":{"rank":4,"rank_tolerance":0.005,"rank_budget":null,"alpha":8.0,"dropout":0.1,"target_modules":["q_proj","v_proj"],"exclude_modules":[],"layers_to_transform":null,"rank_pattern":{},"alpha_pattern":{},"use_rslora":false,"use_dora":false,"init":"shared"},"training":{"epochs":2,"max_steps":null,"learning_rate":0.005,"loraplus_ratio":1.0,"batch_size":4,"gradient_accumulation":1,"batch_tokens":null,"max_length":null,"schedule":"cosine","warmup_ratio":0.05,"warmup_steps":null,"weight_decay":0.0,"max_grad_norm":1.0,"seed":0,"validation":0.1,"evaluate_every":null,"patience":null,"min_improvement":0.0,"checkpoint_every":null,"keep_checkpoints":2,"dtype":"auto","gradient_checkpointing":false,"packing":true,"share_prefix":true,"threads":1}}','{"steps":12,"epochs":2.0,"tokens":2054,"seconds":0.5120460659999821,"train_loss":5.917620269964773,"stopped_early":false,"trainable_parameters":1792,"loss_before":6.3617753765799785,"accuracy_before":0.0,"perplexity_before":579.2738732771396,"loss_after":4.933116468516263,"accuracy_after":0.09090909361839294,"perplexity_after":138.8114404290221,"rank":4,"bytes":8709}','ad208503246841f00e34dde4506ee5412517869ed44a0c240ff2fda074314634','02f09ce8fc5b0899e7ef753f22e3e86369be86209ad43326e929a82cbcf469e8',0,'{"finch-hub":"0.1.0","torch":"2.13.0+cpu","transformers":"5.23.0","peft":"0.21.2","safetensors":"0.8.0","tokenizers":"0.23.3","numpy":"2.4.6"}','{"processor":"Intel(R) Xeon(R) Processor @ 2.50GHz","instruction_set":"AVX512","threads":1,"torch":"2.13.0+cpu","transformers":"5.23.0","peft":"0.21.2","device":"cpu","dtype":"float32","members":1,"batch_tokens":[[0,null]]}','---
library_name: "peft"
pipeline_tag: "text-generation"
base_model: "/home/ana/models/tiny"
base_model_relation: "adapter"
tags: ["lora", "transformers", "base_model:adapter:/home/ana/models/tiny", "finch-hub"]
model-index: [{"name": "birds", "results": [{"task": {"type": "text-generation"}, "dataset": {"name": "held-out examples", "type": "02f09ce8fc5b0899"}, "metrics": [{"type": "loss", "name": "held-out loss (nats per token)", "value": 4.9331}]}]}]
---

# birds

A LoRA adapter for `/home/ana/models/tiny`, made by Finch Hub (train).

| measured | value |
|---|---|
| steps | 12 |
| epochs | 2 |
| tokens | 2054 |
| seconds | 0.512 |
| train_loss | 5.918 |
| trainable_parameters | 1792 |
| loss_before | 6.362 |
| accuracy_before | 0 |
| perplexity_before | 579.3 |
| loss_after | 4.933 |
| accuracy_after | 0.09091 |
| perplexity_after | 138.8 |
| rank | 4 |
| bytes | 8709 |

Lineage, hashes and versions are in `finch.json`.
','2026-11-28 16:18:00.398',NULL);
INSERT INTO "adapter_versions" VALUES(2,2,1,'58d3072fa3d990c7db09b83a274b1ebb5689b9d80458b8f5f92cf77b33eb240c','bec1800bc048a77474475928d38eaeaa2ad77d868b1b4fd47a07b8cbce0e3cf0',1,'train','ready','2xkl2dre234keoj6','{"kind":"train","adapter":"insects","base":{"source":"/home/ana/models/tiny","revision":null},"train":"2f0bdf536380ec11413226f05a1a555bef08a5dbe22b414df9edc532564a804c","validation":"6b565f1eed37cff62842e26b43acfa33f31079b00dc998556a76f606ed482108","preset":null,"system":null,"lora":{"rank":4,"rank_tolerance":0.005,"rank_budget":null,"alpha":8.0,"dropout":0.1,"target_modules":["q_proj","v_proj"],"exclude_modules":[],"layers_to_transform":null,"rank_pattern":{},"alpha_pattern":{},"use_rslora":false,"use_dora":false,"init":"shared"},"training":{"epochs":2,"max_steps":null,"learning_rate":0.005,"loraplus_ratio":1.0,"batch_size":4,"gradient_accumulation":1,"batch_tokens":null,"max_length":null,"schedule":"cosine","warmup_ratio":0.05,"warmup_steps":null,"weight_decay":0.0,"max_grad_norm":1.0,"seed":1,"validation":0.1,"evaluate_every":null,"patience":null,"min_improvement":0.0,"checkpoint_every":null,"keep_checkpoints":2,"dtype":"auto","gradient_checkpointing":false,"packing":true,"share_prefix":true,"threads":1}}','{"steps":12,"epochs":2.0,"tokens":1182,"seconds":0.37674566900005857,"train_loss":5.842689499710545,"stopped_early":false,"trainable_parameters":1792,"loss_before":6.3833950360616045,"accuracy_before":0.0,"perplexity_before":591.9339371834732,"loss_after":5.307662661870321,"accuracy_after":0.0,"perplexity_after":201.87781978817324,"rank":4,"bytes":8709}','2f0bdf536380ec11413226f05a1a555bef08a5dbe22b414df9edc532564a804c','6b565f1eed37cff62842e26b43acfa33f31079b00dc998556a76f606ed482108',1,'{"finch-hub":"0.1.0","torch":"2.13.0+cpu","transformers":"5.23.0","peft":"0.21.2","safetensors":"0.8.0","tokenizers":"0.23.3","numpy":"2.4.6"}','{"processor":"Intel(R) Xeon(R) Processor @ 2.50GHz","instruction_set":"AVX512","threads":1,"torch":"2.13.0+cpu","transformers":"5.23.0","peft":"0.21.2","device":"cpu","dtype":"float32","members":1,"batch_tokens":[[0,null]]}','---
library_name: "peft"
pipeline_tag: "text-generation"
base_model: "/home/ana/models/tiny"
base_model_relation: "adapter"
tags: ["lora", "transformers", "base_model:adapter:/home/ana/models/tiny", "finch-hub"]
model-index: [{"name": "insects", "results": [{"task": {"type": "text-generation"}, "dataset": {"name": "held-out examples", "type": "6b565f1eed37cff6"}, "metrics": [{"type": "loss", "name": "held-out loss (nats per token)", "value": 5.3077}]}]}]
---

# insects

A LoRA adapter for `/home/ana/models/tiny`, made by Finch Hub (train).

| measured | value |
|---|---|
| steps | 12 |
| epochs | 2 |
| tokens | 1182 |
| seconds | 0.3767 |
| train_loss | 5.843 |
| trainable_parameters | 1792 |
| loss_before | 6.383 |
| accuracy_before | 0 |
| perplexity_before | 591.9 |
| loss_after | 5.308 |
| accuracy_after | 0 |
| perplexity_after | 201.9 |
| rank | 4 |
| bytes | 8709 |

Lineage, hashes and versions are in `finch.json`.
','2026-11-28 16:18:01.011',NULL);
INSERT INTO "adapter_versions" VALUES(3,3,1,'87e928c91e53ad1d877dd5afa12720b2c03b54c3b20b4736dbd7121b23fde90b','b016fbb8e344319e240bfff5143c6276798af8396a8ec76aa8441a445b1ba16d',1,'compose','ready','sygpqu3bbv6dv73s','{"kind":"compose","adapter":"both","parents":[{"adapter":"birds","weight":1.0},{"adapter":"insects","weight":1.0}],"strategy":"auto","parameters":{},"resolver":"keep","resolver_parameters":{},"scale":null,"rank":null,"evaluations":4,"min_retention":null,"seed":0}','{"strategy":"tsv","resolver":"keep","scale":0.8706,"mean_retention":1.103268175437953,"worst_retention":1.062731565511108,"evaluations":4,"seconds":0.31476074700003664,"rank":8,"bytes":15885}',NULL,NULL,0,'{"finch-hub":"0.1.0","torch":"2.13.0+cpu","transformers":"5.23.0","peft":"0.21.2","safetensors":"0.8.0","tokenizers":"0.23.3","numpy":"2.4.6"}','{"processor":"Intel(R) Xeon(R) Processor @ 2.50GHz","instruction_set":"AVX512","threads":1,"torch":"2.13.0+cpu","transformers":"5.23.0","peft":"0.21.2","device":"cpu","dtype":"float32"}','---
library_name: "peft"
pipeline_tag: "text-generation"
base_model: "/home/ana/models/tiny"
base_model_relation: "adapter"
tags: ["lora", "transformers", "base_model:adapter:/home/ana/models/tiny", "finch-hub"]
---

# both

A LoRA adapter for `/home/ana/models/tiny`, made by Finch Hub (compose).

| measured | value |
|---|---|
| strategy | tsv |
| resolver | keep |
| scale | 0.8706 |
| mean_retention | 1.103 |
| worst_retention | 1.063 |
| evaluations | 4 |
| seconds | 0.3148 |
| rank | 8 |
| bytes | 15885 |

## Made from

- `birds/1`, weight 1
- `insects/1`, weight 1

Lineage, hashes and versions are in `finch.json`.
','2026-11-28 16:18:01.581',NULL);
INSERT INTO "adapter_versions" VALUES(4,4,1,'6d630a022c4a708377b85136da28bd78b59bb9ecfd330f64b58d930389938c6d','f5af004a1f2c11c55499e607a66716dda38a45daf888a99463e25562577e98b4',1,'compose','ready','oucplgdyst53xbok','{"kind":"compose","adapter":"dared","parents":[{"adapter":"birds","weight":1.0},{"adapter":"insects","weight":0.5}],"strategy":"dare","parameters":{},"resolver":"keep","resolver_parameters":{},"scale":0.7,"rank":null,"evaluations":16,"min_retention":null,"seed":0}','{"strategy":"dare","resolver":"keep","scale":0.7,"mean_retention":0.6409439350991986,"worst_retention":0.47609679477879396,"evaluations":2,"seconds":0.220300237999993,"rank":8,"bytes":15885}',NULL,NULL,0,'{"finch-hub":"0.1.0","torch":"2.13.0+cpu","transformers":"5.23.0","peft":"0.21.2","safetensors":"0.8.0","tokenizers":"0.23.3","numpy":"2.4.6"}','{"processor":"Intel(R) Xeon(R) Processor @ 2.50GHz","instruction_set":"AVX512","threads":1,"torch":"2.13.0+cpu","transformers":"5.23.0","peft":"0.21.2","device":"cpu","dtype":"float32"}','---
library_name: "peft"
pipeline_tag: "text-generation"
base_model: "/home/ana/models/tiny"
base_model_relation: "adapter"
tags: ["lora", "transformers", "base_model:adapter:/home/ana/models/tiny", "finch-hub"]
---

# dared

A LoRA adapter for `/home/ana/models/tiny`, made by Finch Hub (compose).

| measured | value |
|---|---|
| strategy | dare |
| resolver | keep |
| scale | 0.7 |
| mean_retention | 0.6409 |
| worst_retention | 0.4761 |
| evaluations | 2 |
| seconds | 0.2203 |
| rank | 8 |
| bytes | 15885 |

## Made from

- `birds/1`, weight 1
- `insects/1`, weight 0.5

Lineage, hashes and versions are in `finch.json`.
','2026-11-28 16:18:02.430',NULL);
INSERT INTO "adapter_versions" VALUES(5,1,2,'d4977314e314cb975e82a13c38ef9ab795d8cb3c704bd8a6c59ad4c225b6a12d','894062518badcd392357a2efc879e87f5840ef136843d6d6344187ed9dac8f0d',1,'quantize','ready','g6fslld2mnqim6zm','{"kind":"quantize","adapter":"birds/1","scheme":"int8","group":64,"tolerance":0.005,"system":"You are a helpful assistant who knows birds."}','{"scheme":"int8","group":64,"relative_error":0.0059281160126638185,"bytes_before":8192,"loss_unquantised":4.933116468516263,"loss_after":4.933254968036305,"rank":4,"bytes":4445}','ad208503246841f00e34dde4506ee5412517869ed44a0c240ff2fda074314634','02f09ce8fc5b0899e7ef753f22e3e86369be86209ad43326e929a82cbcf469e8',0,'{"finch-hub":"0.1.0","torch":"2.13.0+cpu","transformers":"5.23.0","peft":"0.21.2","safetensors":"0.8.0","tokenizers":"0.23.3","numpy":"2.4.6"}','{"processor":"Intel(R) Xeon(R) Processor @ 2.50GHz","instruction_set":"AVX512","threads":1,"torch":"2.13.0+cpu","transformers":"5.23.0","peft":"0.21.2","device":"cpu","dtype":"float32"}','---
library_name: "peft"
pipeline_tag: "text-generation"
base_model: "/home/ana/models/tiny"
base_model_relation: "adapter"
tags: ["lora", "transformers", "base_model:adapter:/home/ana/models/tiny", "finch-hub"]
model-index: [{"name": "birds", "results": [{"task": {"type": "text-generation"}, "dataset": {"name": "held-out examples", "type": "02f09ce8fc5b0899"}, "metrics": [{"type": "loss", "name": "held-out loss (nats per token)", "value": 4.9333}]}]}]
---

# birds

A LoRA adapter for `/home/ana/models/tiny`, made by Finch Hub (quantize).

| measured | value |
|---|---|
| scheme | int8 |
| group | 64 |
| relative_error | 0.005928 |
| bytes_before | 8192 |
| loss_unquantised | 4.933 |
| loss_after | 4.933 |
| rank | 4 |
| bytes | 4445 |

## Made from

- `birds/1`, weight 1

Lineage, hashes and versions are in `finch.json`.
','2026-11-28 16:18:02.812',NULL);
INSERT INTO "adapter_versions" VALUES(6,5,1,'2ab9ce3ecbc0e6bc3af993d0a473d7acf3d14bb7c5d08693564aaa8bda5ba99a','849b0cef06ad88802dd1dd39d3f989df7b9bf94641ece8d5dcf79da2c3c688ec',1,'import','ready',NULL,'{}','{"rank":4,"bytes":5135}',NULL,NULL,NULL,'{"finch-hub":"0.1.0","torch":"2.13.0+cpu","transformers":"5.23.0","peft":"0.21.2","safetensors":"0.8.0","tokenizers":"0.23.3","numpy":"2.4.6"}','{}','---
library_name: "peft"
pipeline_tag: "text-generation"
base_model: "/home/ana/models/tiny"
base_model_relation: "adapter"
tags: ["lora", "transformers", "base_model:adapter:/home/ana/models/tiny", "finch-hub"]
---

# guest

A LoRA adapter for `/home/ana/models/tiny`, made by Finch Hub (import).

| measured | value |
|---|---|
| rank | 4 |
| bytes | 5135 |

Lineage, hashes and versions are in `finch.json`.
','2026-11-28 16:18:07.379',NULL);
CREATE TABLE adapters (
	id INTEGER NOT NULL, 
	name VARCHAR(96) NOT NULL, 
	versions_made INTEGER NOT NULL, 
	created_at VARCHAR(23) NOT NULL, 
	CONSTRAINT pk_adapters PRIMARY KEY (id), 
	CONSTRAINT uq_adapters_name UNIQUE (name)
);
INSERT INTO "adapters" VALUES(1,'birds',2,'2026-11-28 16:18:00.393');
INSERT INTO "adapters" VALUES(2,'insects',1,'2026-11-28 16:18:01.008');
INSERT INTO "adapters" VALUES(3,'both',1,'2026-11-28 16:18:01.565');
INSERT INTO "adapters" VALUES(4,'dared',1,'2026-11-28 16:18:02.426');
INSERT INTO "adapters" VALUES(5,'guest',1,'2026-11-28 16:18:07.374');
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0002');
CREATE TABLE aliases (
	adapter_id INTEGER NOT NULL, 
	name VARCHAR(96) NOT NULL, 
	version_id INTEGER NOT NULL, 
	moved_at VARCHAR(23) NOT NULL, 
	CONSTRAINT pk_aliases PRIMARY KEY (adapter_id, name), 
	CONSTRAINT fk_aliases_adapter_id FOREIGN KEY(adapter_id) REFERENCES adapters (id), 
	CONSTRAINT fk_aliases_version_id FOREIGN KEY(version_id) REFERENCES adapter_versions (id)
);
INSERT INTO "aliases" VALUES(1,'production',1,'2026-11-28 16:18:01.374');
CREATE TABLE attempts (
	job_id VARCHAR(32) NOT NULL, 
	fence INTEGER NOT NULL, 
	worker VARCHAR(96) NOT NULL, 
	started_at VARCHAR(23) NOT NULL, 
	ended_at VARCHAR(23), 
	outcome VARCHAR(16), 
	reason TEXT, 
	CONSTRAINT pk_attempts PRIMARY KEY (job_id, fence), 
	CONSTRAINT fk_attempts_job_id FOREIGN KEY(job_id) REFERENCES jobs (id) ON DELETE CASCADE
);
INSERT INTO "attempts" VALUES('y7q24xwlccox3q26',1,'laptop-home-3313','2026-11-28 16:17:51.837','2026-11-28 16:18:00.428','succeeded',NULL);
INSERT INTO "attempts" VALUES('2xkl2dre234keoj6',1,'laptop-home-3313','2026-11-28 16:18:00.443','2026-11-28 16:18:01.015','succeeded',NULL);
INSERT INTO "attempts" VALUES('sygpqu3bbv6dv73s',1,'laptop-home-3313','2026-11-28 16:18:01.022','2026-11-28 16:18:01.584','succeeded',NULL);
INSERT INTO "attempts" VALUES('oucplgdyst53xbok',1,'laptop-home-3313','2026-11-28 16:18:02.168','2026-11-28 16:18:02.432','succeeded',NULL);
INSERT INTO "attempts" VALUES('g6fslld2mnqim6zm',1,'laptop-home-3313','2026-11-28 16:18:02.706','2026-11-28 16:18:02.816','succeeded',NULL);
INSERT INTO "attempts" VALUES('dd7i4y7a4lqia2hd',1,'laptop-home-3313','2026-11-28 16:18:03.224','2026-11-28 16:18:03.487','succeeded',NULL);
INSERT INTO "attempts" VALUES('ba7j22l2gray5b44',1,'laptop-home-3313','2026-11-28 16:18:03.738','2026-11-28 16:18:03.754','succeeded',NULL);
INSERT INTO "attempts" VALUES('lgqxtuerygndy65f',1,'laptop-home-3313','2026-11-28 16:18:04.250','2026-11-28 16:18:04.264','succeeded',NULL);
INSERT INTO "attempts" VALUES('2rtzdmooogcezljn',1,'laptop-home-3313','2026-11-28 16:18:04.772','2026-11-28 16:18:04.926','succeeded',NULL);
INSERT INTO "attempts" VALUES('7fqbbpzymblubbqy',1,'laptop-home-3313','2026-11-28 16:18:05.293','2026-11-28 16:18:05.978','succeeded',NULL);
INSERT INTO "attempts" VALUES('pxu2gnwms4fwkcmh',1,'laptop-home-3313','2026-11-28 16:18:06.313','2026-11-28 16:18:06.963','succeeded',NULL);
INSERT INTO "attempts" VALUES('co3sm4eaesvngqpf',1,'laptop-home-3313','2026-11-28 16:18:07.408','2026-11-28 16:18:07.460','failed','/home/ana/out/foreign exists and is no earlier PEFT adapter of ours; name another place, or remove it');
INSERT INTO "attempts" VALUES('5zth3alvvujsofej',1,'laptop-home-3313','2026-11-28 16:18:07.932','2026-11-28 16:18:18.166','cancelled',NULL);
CREATE TABLE bases (
	id INTEGER NOT NULL, 
	name VARCHAR(512) NOT NULL, 
	source TEXT NOT NULL, 
	revision VARCHAR(255), 
	fingerprint VARCHAR(64) NOT NULL, 
	architecture VARCHAR(96) NOT NULL, 
	parameters BIGINT NOT NULL, 
	path TEXT, 
	created_at VARCHAR(23) NOT NULL, 
	CONSTRAINT pk_bases PRIMARY KEY (id), 
	CONSTRAINT uq_bases_fingerprint UNIQUE (fingerprint)
);
INSERT INTO "bases" VALUES(1,'tiny','/home/ana/models/tiny',NULL,'6a9cc63d494ef8fb4c9550f7936cccbdad9b5765e47cecd15bf80de202fc06e9','LlamaForCausalLM',119104,'/home/ana/models/tiny','2026-11-28 16:17:49.935');
CREATE TABLE datasets (
	id INTEGER NOT NULL, 
	name VARCHAR(512), 
	digest VARCHAR(64) NOT NULL, 
	format VARCHAR(96) NOT NULL, 
	examples BIGINT NOT NULL, 
	bytes BIGINT NOT NULL, 
	created_at VARCHAR(23) NOT NULL, 
	purged_at VARCHAR(23), 
	CONSTRAINT pk_datasets PRIMARY KEY (id), 
	CONSTRAINT uq_datasets_digest UNIQUE (digest)
);
INSERT INTO "datasets" VALUES(1,NULL,'ad208503246841f00e34dde4506ee5412517869ed44a0c240ff2fda074314634','messages',22,2513,'2026-11-28 16:17:50.128',NULL);
INSERT INTO "datasets" VALUES(2,NULL,'02f09ce8fc5b0899e7ef753f22e3e86369be86209ad43326e929a82cbcf469e8','messages',2,229,'2026-11-28 16:17:50.134',NULL);
INSERT INTO "datasets" VALUES(3,NULL,'2f0bdf536380ec11413226f05a1a555bef08a5dbe22b414df9edc532564a804c','messages',22,2597,'2026-11-28 16:17:50.196',NULL);
INSERT INTO "datasets" VALUES(4,NULL,'6b565f1eed37cff62842e26b43acfa33f31079b00dc998556a76f606ed482108','messages',2,237,'2026-11-28 16:17:50.198',NULL);
INSERT INTO "datasets" VALUES(5,NULL,'1ff524db4191a8576c57e48c756c0064c9a948c580d8c1ba35dbe360b1bc2c8e','messages',12,1387,'2026-11-28 16:18:04.760',NULL);
INSERT INTO "datasets" VALUES(6,'few','0ddd1da048f0270934b4bb2fd6cf470c75d2bb1a7c1282f41d0fd9fb9b11e36e','messages',5,585,'2026-11-28 16:18:07.384','2026-11-28 16:18:07.393');
INSERT INTO "datasets" VALUES(7,NULL,'44d8ee94716b2cc7a8e8faf7cd822fe83e6dc95dbb83ef907e89300608f9f934','messages',22,2514,'2026-11-28 16:18:07.919',NULL);
INSERT INTO "datasets" VALUES(8,NULL,'847305ba4e6ae436f8eaece9873f378c5b3d9dce625d5be8efd4153fe81d701f','messages',2,228,'2026-11-28 16:18:07.921',NULL);
INSERT INTO "datasets" VALUES(9,NULL,'b8480e6c91302cbc904d712a33702358c22439f2d53c32a2604551e2adab9895','messages',22,2514,'2026-11-28 16:18:23.873',NULL);
INSERT INTO "datasets" VALUES(10,NULL,'e814e19643d654f8c447b41fe6d8e45fb418bdfba31bfe2643bf0f297e72d0b1','messages',2,228,'2026-11-28 16:18:23.875',NULL);
CREATE TABLE evaluations (
	id INTEGER NOT NULL, 
	base_id INTEGER NOT NULL, 
	version_id INTEGER, 
	dataset_digest VARCHAR(64) NOT NULL, 
	evaluator VARCHAR(96) NOT NULL, 
	metrics JSON NOT NULL, 
	job_id VARCHAR(32), 
	created_at VARCHAR(23) NOT NULL, 
	CONSTRAINT pk_evaluations PRIMARY KEY (id), 
	CONSTRAINT fk_evaluations_base_id FOREIGN KEY(base_id) REFERENCES bases (id), 
	CONSTRAINT fk_evaluations_job_id FOREIGN KEY(job_id) REFERENCES jobs (id) ON DELETE SET NULL, 
	CONSTRAINT fk_evaluations_version_id FOREIGN KEY(version_id) REFERENCES adapter_versions (id)
);
INSERT INTO "evaluations" VALUES(1,1,NULL,'1ff524db4191a8576c57e48c756c0064c9a948c580d8c1ba35dbe360b1bc2c8e','held_out_loss','{"loss":6.525948260203902,"perplexity":682.626774644079,"accuracy":0.024096384644508362,"tokens":83,"examples":12}','2rtzdmooogcezljn','2026-11-28 16:18:04.921');
INSERT INTO "evaluations" VALUES(2,1,1,'1ff524db4191a8576c57e48c756c0064c9a948c580d8c1ba35dbe360b1bc2c8e','held_out_loss','{"loss":5.7259714186909685,"perplexity":306.7310848751145,"accuracy":0.03614457696676254,"tokens":83,"examples":12}','2rtzdmooogcezljn','2026-11-28 16:18:04.924');
INSERT INTO "evaluations" VALUES(3,1,2,'1ff524db4191a8576c57e48c756c0064c9a948c580d8c1ba35dbe360b1bc2c8e','held_out_loss','{"loss":5.720023241387793,"perplexity":304.9120094528125,"accuracy":0.024096384644508362,"tokens":83,"examples":12}','2rtzdmooogcezljn','2026-11-28 16:18:04.925');
CREATE TABLE events (
	job_id VARCHAR(32) NOT NULL, 
	seq BIGINT NOT NULL, 
	at VARCHAR(23) NOT NULL, 
	type VARCHAR(16) NOT NULL, 
	level VARCHAR(8) NOT NULL, 
	message TEXT NOT NULL, 
	data JSON NOT NULL, 
	CONSTRAINT pk_events PRIMARY KEY (job_id, seq), 
	CONSTRAINT fk_events_job_id FOREIGN KEY(job_id) REFERENCES jobs (id) ON DELETE CASCADE
)
 WITHOUT ROWID

;
INSERT INTO "events" VALUES('2rtzdmooogcezljn',1,'2026-11-28 16:18:04.764','state','info','','{"state":"queued","attempt":0}');
INSERT INTO "events" VALUES('2rtzdmooogcezljn',2,'2026-11-28 16:18:04.773','state','info','','{"state":"running","attempt":1,"worker":"laptop-home-3313"}');
INSERT INTO "events" VALUES('2rtzdmooogcezljn',3,'2026-11-28 16:18:04.927','phase','info','importing','{"name":"importing"}');
INSERT INTO "events" VALUES('2rtzdmooogcezljn',4,'2026-11-28 16:18:04.927','phase','info','measuring base','{"name":"measuring base"}');
INSERT INTO "events" VALUES('2rtzdmooogcezljn',5,'2026-11-28 16:18:04.927','metrics','info','base: loss 6.526, perplexity 682.6, accuracy 0.0241, tokens 83, examples 12','{"name":"base","loss":6.525948260203902,"perplexity":682.626774644079,"accuracy":0.024096384644508362,"tokens":83,"examples":12}');
INSERT INTO "events" VALUES('2rtzdmooogcezljn',6,'2026-11-28 16:18:04.927','phase','info','measuring birds/1','{"name":"measuring birds/1"}');
INSERT INTO "events" VALUES('2rtzdmooogcezljn',7,'2026-11-28 16:18:04.927','metrics','info','birds/1: loss 5.726, perplexity 306.7, accuracy 0.03614, tokens 83, examples 12','{"name":"birds/1","loss":5.7259714186909685,"perplexity":306.7310848751145,"accuracy":0.03614457696676254,"tokens":83,"examples":12}');
INSERT INTO "events" VALUES('2rtzdmooogcezljn',8,'2026-11-28 16:18:04.927','phase','info','measuring insects/1','{"name":"measuring insects/1"}');
INSERT INTO "events" VALUES('2rtzdmooogcezljn',9,'2026-11-28 16:18:04.927','metrics','info','insects/1: loss 5.72, perplexity 304.9, accuracy 0.0241, tokens 83, examples 12','{"name":"insects/1","loss":5.720023241387793,"perplexity":304.9120094528125,"accuracy":0.024096384644508362,"tokens":83,"examples":12}');
INSERT INTO "events" VALUES('2rtzdmooogcezljn',10,'2026-11-28 16:18:04.927','state','info','','{"state":"succeeded","attempt":1}');
INSERT INTO "events" VALUES('2xkl2dre234keoj6',1,'2026-11-28 16:17:50.202','state','info','','{"state":"queued","attempt":0}');
INSERT INTO "events" VALUES('2xkl2dre234keoj6',2,'2026-11-28 16:18:00.444','state','info','','{"state":"running","attempt":1,"worker":"laptop-home-3313"}');
INSERT INTO "events" VALUES('2xkl2dre234keoj6',3,'2026-11-28 16:18:00.950','phase','info','importing','{"name":"importing"}');
INSERT INTO "events" VALUES('2xkl2dre234keoj6',4,'2026-11-28 16:18:00.950','phase','info','tokenizing','{"name":"tokenizing"}');
INSERT INTO "events" VALUES('2xkl2dre234keoj6',5,'2026-11-28 16:18:00.950','report','info','','{"name":"data","report":{"examples":22,"validation_examples":2,"tokens":591,"label_tokens":165,"length_mean":26.86,"length_max":28,"length_p95":28,"truncated":0,"duplicates":0,"overlap":0,"shared_prefix_tokens":8,"steps":12,"seconds":0.8846485064443262}}');
INSERT INTO "events" VALUES('2xkl2dre234keoj6',6,'2026-11-28 16:18:00.950','phase','info','training','{"name":"training"}');
INSERT INTO "events" VALUES('2xkl2dre234keoj6',7,'2026-11-28 16:18:00.950','metrics','info','held-out loss 6.3834 after step 0','{"step":0,"valid_loss":6.3833950360616045,"valid_accuracy":0.0}');
INSERT INTO "events" VALUES('2xkl2dre234keoj6',8,'2026-11-28 16:18:00.950','progress','info','','{"step":1,"steps":12,"epoch":0.167,"loss":6.456704616546631,"learning_rate":0.005,"grad_norm":2.3888516426086426,"tokens_per_second":2344.7758394276184,"seconds_left":0.511349520000465,"memory_bytes":517070848}');
INSERT INTO "events" VALUES('2xkl2dre234keoj6',9,'2026-11-28 16:18:00.950','metrics','info','held-out loss 5.5685 after step 6','{"step":6,"valid_loss":5.568478091557821,"valid_accuracy":0.0}');
INSERT INTO "events" VALUES('2xkl2dre234keoj6',10,'2026-11-28 16:18:00.950','progress','info','','{"step":9,"steps":12,"epoch":1.5,"loss":6.093124101423822,"learning_rate":0.0014614624674952842,"grad_norm":2.3502018451690674,"tokens_per_second":2968.042842933066,"seconds_left":0.10287362733335689,"memory_bytes":551682048}');
INSERT INTO "events" VALUES('2xkl2dre234keoj6',11,'2026-11-28 16:18:01.025','progress','info','','{"step":12,"steps":12,"epoch":2.0,"loss":5.886973335435554,"learning_rate":0.00010126756596375686,"grad_norm":2.553870916366577,"tokens_per_second":3137.3950578840395,"seconds_left":0.0,"memory_bytes":551981056}');
INSERT INTO "events" VALUES('2xkl2dre234keoj6',12,'2026-11-28 16:18:01.025','metrics','info','held-out loss 5.3077 after step 12','{"step":12,"valid_loss":5.307662661870321,"valid_accuracy":0.0}');
INSERT INTO "events" VALUES('2xkl2dre234keoj6',13,'2026-11-28 16:18:01.025','state','info','','{"state":"succeeded","attempt":1}');
INSERT INTO "events" VALUES('5zth3alvvujsofej',1,'2026-11-28 16:18:07.925','state','info','','{"state":"queued","attempt":0}');
INSERT INTO "events" VALUES('5zth3alvvujsofej',2,'2026-11-28 16:18:07.933','state','info','','{"state":"running","attempt":1,"worker":"laptop-home-3313"}');
INSERT INTO "events" VALUES('5zth3alvvujsofej',3,'2026-11-28 16:18:08.864','phase','info','importing','{"name":"importing"}');
INSERT INTO "events" VALUES('5zth3alvvujsofej',4,'2026-11-28 16:18:15.085','phase','info','loading the base model','{"name":"loading the base model"}');
INSERT INTO "events" VALUES('5zth3alvvujsofej',5,'2026-11-28 16:18:15.085','phase','info','tokenizing','{"name":"tokenizing"}');
INSERT INTO "events" VALUES('5zth3alvvujsofej',6,'2026-11-28 16:18:15.085','report','info','','{"name":"data","report":{"examples":22,"validation_examples":2,"tokens":542,"label_tokens":138,"length_mean":24.64,"length_max":27,"length_p95":27,"truncated":0,"duplicates":0,"overlap":0,"shared_prefix_tokens":7,"steps":24000,"seconds":413.47340419801327}}');
INSERT INTO "events" VALUES('5zth3alvvujsofej',7,'2026-11-28 16:18:15.085','phase','info','training','{"name":"training"}');
INSERT INTO "events" VALUES('5zth3alvvujsofej',8,'2026-11-28 16:18:15.085','metrics','info','held-out loss 6.6501 after step 0','{"step":0,"valid_loss":6.650142703737531,"valid_accuracy":0.0}');
INSERT INTO "events" VALUES('5zth3alvvujsofej',9,'2026-11-28 16:18:15.085','progress','info','','{"step":1,"steps":24000,"epoch":0.167,"loss":6.72876501083374,"learning_rate":4.166666666666667e-6,"grad_norm":2.411804676055908,"tokens_per_second":4640.447129600113,"seconds_left":522.3416908553115,"memory_bytes":429416448}');
INSERT INTO "events" VALUES('5zth3alvvujsofej',10,'2026-11-28 16:18:15.608','metrics','info','held-out loss 6.6485 after step 6','{"step":6,"valid_loss":6.648523909705026,"valid_accuracy":0.0}');
INSERT INTO "events" VALUES('5zth3alvvujsofej',11,'2026-11-28 16:18:15.608','progress','info','','{"step":8,"steps":24000,"epoch":1.333,"loss":6.624413444051599,"learning_rate":0.000033333333333333335,"grad_norm":2.148740768432617,"tokens_per_second":2778.6278459806995,"seconds_left":798.6891815002041,"memory_bytes":469827584}');
INSERT INTO "events" VALUES('5zth3alvvujsofej',12,'2026-11-28 16:18:15.608','metrics','info','held-out loss 6.6442 after step 12','{"step":12,"valid_loss":6.644165754318237,"valid_accuracy":0.0}');
INSERT INTO "events" VALUES('5zth3alvvujsofej',13,'2026-11-28 16:18:15.608','metrics','info','held-out loss 6.6373 after step 18','{"step":18,"valid_loss":6.637302705219814,"valid_accuracy":0.0}');
INSERT INTO "events" VALUES('5zth3alvvujsofej',14,'2026-11-28 16:18:15.608','progress','info','','{"step":20,"steps":24000,"epoch":3.333,"loss":6.581386594356539,"learning_rate":0.00008333333333333333,"grad_norm":2.4450690746307373,"tokens_per_second":3580.5101452031404,"seconds_left":611.4698496059661,"memory_bytes":501342208}');
INSERT INTO "events" VALUES('5zth3alvvujsofej',15,'2026-11-28 16:18:15.608','metrics','info','held-out loss 6.6269 after step 24','{"step":24,"valid_loss":6.62690806388855,"valid_accuracy":0.0}');
INSERT INTO "events" VALUES('5zth3alvvujsofej',16,'2026-11-28 16:18:16.152','metrics','info','held-out loss 6.6125 after step 30','{"step":30,"valid_loss":6.612536634717669,"valid_accuracy":0.0}');
INSERT INTO "events" VALUES('5zth3alvvujsofej',17,'2026-11-28 16:18:16.152','progress','info','','{"step":33,"steps":24000,"epoch":5.5,"loss":6.522173277656817,"learning_rate":0.0001375,"grad_norm":2.1424596309661865,"tokens_per_second":4025.6307892082195,"seconds_left":541.9581146328585,"memory_bytes":512057344}');
INSERT INTO "events" VALUES('5zth3alvvujsofej',18,'2026-11-28 16:18:16.152','metrics','info','held-out loss 6.5937 after step 36','{"step":36,"valid_loss":6.5937416553497314,"valid_accuracy":0.0}');
INSERT INTO "events" VALUES('5zth3alvvujsofej',19,'2026-11-28 16:18:16.152','metrics','info','held-out loss 6.5692 after step 42','{"step":42,"valid_loss":6.569211823599679,"valid_accuracy":0.0}');
INSERT INTO "events" VALUES('5zth3alvvujsofej',20,'2026-11-28 16:18:16.152','metrics','info','held-out loss 6.5378 after step 48','{"step":48,"valid_loss":6.537847348621914,"valid_accuracy":0.0}');
INSERT INTO "events" VALUES('5zth3alvvujsofej',21,'2026-11-28 16:18:16.152','progress','info','','{"step":51,"steps":24000,"epoch":8.5,"loss":6.43847170861147,"learning_rate":0.00021250000000000002,"grad_norm":2.940009355545044,"tokens_per_second":4693.748100618366,"seconds_left":463.1104811291639,"memory_bytes":519925760}');
INSERT INTO "events" VALUES('5zth3alvvujsofej',22,'2026-11-28 16:18:16.152','metrics','info','held-out loss 6.4978 after step 54','{"step":54,"valid_loss":6.497759614671979,"valid_accuracy":0.0}');
INSERT INTO "events" VALUES('5zth3alvvujsofej',23,'2026-11-28 16:18:16.152','metrics','info','held-out loss 6.4475 after step 60','{"step":60,"valid_loss":6.4475006375994,"valid_accuracy":0.0}');
INSERT INTO "events" VALUES('5zth3alvvujsofej',24,'2026-11-28 16:18:16.681','metrics','info','held-out loss 6.3849 after step 66','{"step":66,"valid_loss":6.384850195475987,"valid_accuracy":0.0}');
INSERT INTO "events" VALUES('5zth3alvvujsofej',25,'2026-11-28 16:18:16.681','progress','info','','{"step":67,"steps":24000,"epoch":11.167,"loss":6.227400405682636,"learning_rate":0.00027916666666666666,"grad_norm":3.7539165019989014,"tokens_per_second":4964.896940279397,"seconds_left":435.566546685192,"memory_bytes":532467712}');
INSERT INTO "events" VALUES('5zth3alvvujsofej',26,'2026-11-28 16:18:16.681','metrics','info','held-out loss 6.3059 after step 72','{"step":72,"valid_loss":6.305924245289394,"valid_accuracy":0.0}');
INSERT INTO "events" VALUES('5zth3alvvujsofej',27,'2026-11-28 16:18:16.681','metrics','info','held-out loss 6.2083 after step 78','{"step":78,"valid_loss":6.208339146205357,"valid_accuracy":0.0}');
INSERT INTO "events" VALUES('5zth3alvvujsofej',28,'2026-11-28 16:18:16.681','progress','info','','{"step":84,"steps":24000,"epoch":14.0,"loss":6.024972933324529,"learning_rate":0.00035000000000000005,"grad_norm":4.0225300788879395,"tokens_per_second":5130.732056914541,"seconds_left":421.07285588778205,"memory_bytes":548401152}');
INSERT INTO "events" VALUES('5zth3alvvujsofej',29,'2026-11-28 16:18:16.681','metrics','info','held-out loss 6.0884 after step 84','{"step":84,"valid_loss":6.088369948523385,"valid_accuracy":0.0}');
INSERT INTO "events" VALUES('5zth3alvvujsofej',30,'2026-11-28 16:18:16.681','metrics','info','held-out loss 5.9506 after step 90','{"step":90,"valid_loss":5.9505911895207,"valid_accuracy":0.0}');
INSERT INTO "events" VALUES('5zth3alvvujsofej',31,'2026-11-28 16:18:17.184','metrics','info','held-out loss 5.7942 after step 96','{"step":96,"valid_loss":5.794198547090803,"valid_accuracy":0.0}');
INSERT INTO "events" VALUES('5zth3alvvujsofej',32,'2026-11-28 16:18:17.184','progress','info','','{"step":100,"steps":24000,"epoch":16.667,"loss":5.715172198850851,"learning_rate":0.00041666666666666664,"grad_norm":4.0754780769348145,"tokens_per_second":5293.493297394122,"seconds_left":409.5084055489649,"memory_bytes":553377792}');
INSERT INTO "events" VALUES('5zth3alvvujsofej',33,'2026-11-28 16:18:17.184','metrics','info','held-out loss 5.6303 after step 102','{"step":102,"valid_loss":5.630293948309762,"valid_accuracy":0.0}');
INSERT INTO "events" VALUES('5zth3alvvujsofej',34,'2026-11-28 16:18:17.184','metrics','info','held-out loss 5.4689 after step 108','{"step":108,"valid_loss":5.468891109739031,"valid_accuracy":0.0714285746216774}');
INSERT INTO "events" VALUES('5zth3alvvujsofej',35,'2026-11-28 16:18:17.184','metrics','info','held-out loss 5.3134 after step 114','{"step":114,"valid_loss":5.313369955335345,"valid_accuracy":0.0714285746216774}');
INSERT INTO "events" VALUES('5zth3alvvujsofej',36,'2026-11-28 16:18:17.184','progress','info','','{"step":118,"steps":24000,"epoch":19.667,"loss":5.288579665039607,"learning_rate":0.0004916666666666666,"grad_norm":3.4554319381713867,"tokens_per_second":5496.728451863542,"seconds_left":393.6063618718678,"memory_bytes":553406464}');
INSERT INTO "events" VALUES('5zth3alvvujsofej',37,'2026-11-28 16:18:17.184','metrics','info','held-out loss 5.1635 after step 120','{"step":120,"valid_loss":5.163529191698347,"valid_accuracy":0.2142857164144516}');
INSERT INTO "events" VALUES('5zth3alvvujsofej',38,'2026-11-28 16:18:17.184','metrics','info','held-out loss 5.0131 after step 126','{"step":126,"valid_loss":5.013147456305368,"valid_accuracy":0.2142857164144516}');
INSERT INTO "events" VALUES('5zth3alvvujsofej',39,'2026-11-28 16:18:17.693','metrics','info','held-out loss 4.8743 after step 132','{"step":132,"valid_loss":4.874342407499041,"valid_accuracy":0.2142857164144516}');
INSERT INTO "events" VALUES('5zth3alvvujsofej',40,'2026-11-28 16:18:17.693','progress','info','','{"step":136,"steps":24000,"epoch":22.667,"loss":4.810438450643214,"learning_rate":0.0005666666666666666,"grad_norm":3.788266658782959,"tokens_per_second":5659.4407327623685,"seconds_left":382.01179581781776,"memory_bytes":553439232}');
INSERT INTO "events" VALUES('5zth3alvvujsofej',41,'2026-11-28 16:18:17.693','metrics','info','held-out loss 4.7424 after step 138','{"step":138,"valid_loss":4.7424339226314,"valid_accuracy":0.2142857164144516}');
INSERT INTO "events" VALUES('5zth3alvvujsofej',42,'2026-11-28 16:18:17.693','metrics','info','held-out loss 4.6035 after step 144','{"step":144,"valid_loss":4.60345585005624,"valid_accuracy":0.2857142984867096}');
INSERT INTO "events" VALUES('5zth3alvvujsofej',43,'2026-11-28 16:18:17.693','metrics','info','held-out loss 4.4685 after step 150','{"step":150,"valid_loss":4.468535193375179,"valid_accuracy":0.2857142984867096}');
INSERT INTO "events" VALUES('5zth3alvvujsofej',44,'2026-11-28 16:18:17.693','progress','info','','{"step":155,"steps":24000,"epoch":25.833,"loss":4.293387684834316,"learning_rate":0.0006458333333333334,"grad_norm":3.153559684753418,"tokens_per_second":5812.02152424181,"seconds_left":371.75785884606097,"memory_bytes":553472000}');
INSERT INTO "events" VALUES('5zth3alvvujsofej',45,'2026-11-28 16:18:17.693','metrics','info','held-out loss 4.3387 after step 156','{"step":156,"valid_loss":4.3386756011417935,"valid_accuracy":0.3571428656578064}');
INSERT INTO "events" VALUES('5zth3alvvujsofej',46,'2026-11-28 16:18:17.693','metrics','info','held-out loss 4.2146 after step 162','{"step":162,"valid_loss":4.214625035013471,"valid_accuracy":0.3571428656578064}');
INSERT INTO "events" VALUES('5zth3alvvujsofej',47,'2026-11-28 16:18:18.167','metrics','info','held-out loss 4.0819 after step 168','{"step":168,"valid_loss":4.081855569566999,"valid_accuracy":0.4285714328289032}');
INSERT INTO "events" VALUES('5zth3alvvujsofej',48,'2026-11-28 16:18:18.167','progress','info','','{"step":173,"steps":24000,"epoch":28.833,"loss":3.779461012990179,"learning_rate":0.0007208333333333333,"grad_norm":2.066534996032715,"tokens_per_second":5911.234825829737,"seconds_left":365.0552616000403,"memory_bytes":557146112}');
INSERT INTO "events" VALUES('5zth3alvvujsofej',49,'2026-11-28 16:18:18.167','metrics','info','held-out loss 3.9177 after step 174','{"step":174,"valid_loss":3.9177096656390598,"valid_accuracy":0.4285714328289032}');
INSERT INTO "events" VALUES('5zth3alvvujsofej',50,'2026-11-28 16:18:18.167','metrics','info','held-out loss 3.7286 after step 180','{"step":180,"valid_loss":3.728608327252524,"valid_accuracy":0.5}');
INSERT INTO "events" VALUES('5zth3alvvujsofej',51,'2026-11-28 16:18:18.167','metrics','info','held-out loss 3.5422 after step 186','{"step":186,"valid_loss":3.5422023023877824,"valid_accuracy":0.5}');
INSERT INTO "events" VALUES('5zth3alvvujsofej',52,'2026-11-28 16:18:18.167','state','info','','{"state":"cancelled","attempt":1}');
INSERT INTO "events" VALUES('7fqbbpzymblubbqy',1,'2026-11-28 16:18:05.285','state','info','','{"state":"queued","attempt":0}');
INSERT INTO "events" VALUES('7fqbbpzymblubbqy',2,'2026-11-28 16:18:05.294','state','info','','{"state":"running","attempt":1,"worker":"laptop-home-3313"}');
INSERT INTO "events" VALUES('7fqbbpzymblubbqy',3,'2026-11-28 16:18:05.812','phase','info','importing','{"name":"importing"}');
INSERT INTO "events" VALUES('7fqbbpzymblubbqy',4,'2026-11-28 16:18:05.812','phase','info','importing','{"name":"importing"}');
INSERT INTO "events" VALUES('7fqbbpzymblubbqy',5,'2026-11-28 16:18:05.812','phase','info','loading the base model','{"name":"loading the base model"}');
INSERT INTO "events" VALUES('7fqbbpzymblubbqy',6,'2026-11-28 16:18:05.812','phase','info','tokenizing','{"name":"tokenizing"}');
INSERT INTO "events" VALUES('7fqbbpzymblubbqy',7,'2026-11-28 16:18:05.812','report','info','','{"name":"data","report":{"examples":22,"validation_examples":2,"tokens":1027,"label_tokens":141,"length_mean":46.68,"length_max":49,"length_p95":49,"truncated":0,"duplicates":0,"overlap":0,"shared_prefix_tokens":29,"steps":12,"seconds":0.6656016023913777}}');
INSERT INTO "events" VALUES('7fqbbpzymblubbqy',8,'2026-11-28 16:18:05.812','phase','info','training','{"name":"training"}');
INSERT INTO "events" VALUES('7fqbbpzymblubbqy',9,'2026-11-28 16:18:05.812','metrics','info','held-out loss 6.3618 after step 0','{"step":0,"valid_loss":6.3617753765799785,"valid_accuracy":0.0}');
INSERT INTO "events" VALUES('7fqbbpzymblubbqy',10,'2026-11-28 16:18:05.812','progress','info','','{"step":1,"steps":12,"epoch":0.167,"loss":6.741293907165527,"learning_rate":0.005,"grad_norm":1.924998164176941,"tokens_per_second":9702.143673151113,"seconds_left":0.21314877100024887,"memory_bytes":572018688}');
INSERT INTO "events" VALUES('7fqbbpzymblubbqy',11,'2026-11-28 16:18:05.979','metrics','info','held-out loss 5.3527 after step 6','{"step":6,"valid_loss":5.352652051232078,"valid_accuracy":0.09090909361839294}');
INSERT INTO "events" VALUES('7fqbbpzymblubbqy',12,'2026-11-28 16:18:05.979','progress','info','','{"step":12,"steps":12,"epoch":2.0,"loss":6.001397198986281,"learning_rate":0.00010126756596375686,"grad_norm":3.1700685024261475,"tokens_per_second":8954.950712234791,"seconds_left":0.0,"memory_bytes":572047360}');
INSERT INTO "events" VALUES('7fqbbpzymblubbqy',13,'2026-11-28 16:18:05.979','metrics','info','held-out loss 4.9331 after step 12','{"step":12,"valid_loss":4.933116468516263,"valid_accuracy":0.09090909361839294}');
INSERT INTO "events" VALUES('7fqbbpzymblubbqy',14,'2026-11-28 16:18:05.979','phase','info','comparing','{"name":"comparing"}');
INSERT INTO "events" VALUES('7fqbbpzymblubbqy',15,'2026-11-28 16:18:05.979','state','info','','{"state":"succeeded","attempt":1}');
INSERT INTO "events" VALUES('ba7j22l2gray5b44',1,'2026-11-28 16:18:03.730','state','info','','{"state":"queued","attempt":0}');
INSERT INTO "events" VALUES('ba7j22l2gray5b44',2,'2026-11-28 16:18:03.739','state','info','','{"state":"running","attempt":1,"worker":"laptop-home-3313"}');
INSERT INTO "events" VALUES('ba7j22l2gray5b44',3,'2026-11-28 16:18:03.755','phase','info','exporting','{"name":"exporting"}');
INSERT INTO "events" VALUES('ba7j22l2gray5b44',4,'2026-11-28 16:18:03.755','state','info','','{"state":"succeeded","attempt":1}');
INSERT INTO "events" VALUES('co3sm4eaesvngqpf',1,'2026-11-28 16:18:07.401','state','info','','{"state":"queued","attempt":0}');
INSERT INTO "events" VALUES('co3sm4eaesvngqpf',2,'2026-11-28 16:18:07.409','state','info','','{"state":"running","attempt":1,"worker":"laptop-home-3313"}');
INSERT INTO "events" VALUES('co3sm4eaesvngqpf',3,'2026-11-28 16:18:07.461','phase','info','exporting','{"name":"exporting"}');
INSERT INTO "events" VALUES('co3sm4eaesvngqpf',4,'2026-11-28 16:18:07.461','state','error','','{"state":"failed","attempt":1,"reason":"/home/ana/out/foreign exists and is no earlier PEFT adapter of ours; name another place, or remove it"}');
INSERT INTO "events" VALUES('dd7i4y7a4lqia2hd',1,'2026-11-28 16:18:03.216','state','info','','{"state":"queued","attempt":0}');
INSERT INTO "events" VALUES('dd7i4y7a4lqia2hd',2,'2026-11-28 16:18:03.225','state','info','','{"state":"running","attempt":1,"worker":"laptop-home-3313"}');
INSERT INTO "events" VALUES('dd7i4y7a4lqia2hd',3,'2026-11-28 16:18:03.488','phase','info','merging','{"name":"merging"}');
INSERT INTO "events" VALUES('dd7i4y7a4lqia2hd',4,'2026-11-28 16:18:03.488','progress','info','','{"step":114688,"steps":476416}');
INSERT INTO "events" VALUES('dd7i4y7a4lqia2hd',5,'2026-11-28 16:18:03.488','phase','info','verifying','{"name":"verifying"}');
INSERT INTO "events" VALUES('dd7i4y7a4lqia2hd',6,'2026-11-28 16:18:03.488','state','info','','{"state":"succeeded","attempt":1}');
INSERT INTO "events" VALUES('g6fslld2mnqim6zm',1,'2026-11-28 16:18:02.698','state','info','','{"state":"queued","attempt":0}');
INSERT INTO "events" VALUES('g6fslld2mnqim6zm',2,'2026-11-28 16:18:02.706','state','info','','{"state":"running","attempt":1,"worker":"laptop-home-3313"}');
INSERT INTO "events" VALUES('g6fslld2mnqim6zm',3,'2026-11-28 16:18:02.817','phase','info','importing','{"name":"importing"}');
INSERT INTO "events" VALUES('g6fslld2mnqim6zm',4,'2026-11-28 16:18:02.817','phase','info','quantising','{"name":"quantising"}');
INSERT INTO "events" VALUES('g6fslld2mnqim6zm',5,'2026-11-28 16:18:02.817','state','info','','{"state":"succeeded","attempt":1}');
INSERT INTO "events" VALUES('jv3l7kmnxowbw5ca',1,'2026-11-28 16:18:23.893','state','info','','{"state":"queued","attempt":0}');
INSERT INTO "events" VALUES('lgqxtuerygndy65f',1,'2026-11-28 16:18:04.243','state','info','','{"state":"queued","attempt":0}');
INSERT INTO "events" VALUES('lgqxtuerygndy65f',2,'2026-11-28 16:18:04.250','state','info','','{"state":"running","attempt":1,"worker":"laptop-home-3313"}');
INSERT INTO "events" VALUES('lgqxtuerygndy65f',3,'2026-11-28 16:18:04.265','phase','info','exporting','{"name":"exporting"}');
INSERT INTO "events" VALUES('lgqxtuerygndy65f',4,'2026-11-28 16:18:04.265','state','info','','{"state":"succeeded","attempt":1}');
INSERT INTO "events" VALUES('oucplgdyst53xbok',1,'2026-11-28 16:18:01.925','state','info','','{"state":"queued","attempt":0}');
INSERT INTO "events" VALUES('oucplgdyst53xbok',2,'2026-11-28 16:18:02.169','state','info','','{"state":"running","attempt":1,"worker":"laptop-home-3313"}');
INSERT INTO "events" VALUES('oucplgdyst53xbok',3,'2026-11-28 16:18:02.433','phase','info','importing','{"name":"importing"}');
INSERT INTO "events" VALUES('oucplgdyst53xbok',4,'2026-11-28 16:18:02.433','phase','info','','{"name":"read"}');
INSERT INTO "events" VALUES('oucplgdyst53xbok',5,'2026-11-28 16:18:02.433','phase','info','','{"name":"core space"}');
INSERT INTO "events" VALUES('oucplgdyst53xbok',6,'2026-11-28 16:18:02.433','report','info','','{"name":"conflicts","report":{"parents":["birds/1","insects/1"],"structural":[],"modules":[{"module":"model.layers.0.self_attn.q_proj","first":"birds/1","second":"insects/1","output_overlap":0.08920862338451194,"input_overlap":0.9068934347337292,"cosine":0.08020289184269605,"sign_conflict":0.44103965497767783,"norm_ratio":0.9024666482866391,"interference":null},{"module":"model.layers.0.self_attn.v_proj","first":"birds/1","second":"insects/1","output_overlap":0.16456839052940686,"input_overlap":0.9367574448180824,"cosine":0.20132724355597806,"sign_conflict":0.37287951021078636,"norm_ratio":0.9653106790827318,"interference":null},{"module":"model.layers.1.self_attn.q_proj","first":"birds/1","second":"insects/1","output_overlap":0.04872475080341525,"input_overlap":0.8833842211284824,"cosine":0.00782596651781355,"sign_conflict":0.49475842433682543,"norm_ratio":0.9287208319439735,"interference":null},{"module":"model.layers.1.self_attn.v_proj","first":"birds/1","second":"insects/1","output_overlap":0.14266734109126367,"input_overlap":0.916431350730982,"cosine":0.17123341664334332,"sign_conflict":0.40450806569818937,"norm_ratio":0.9996771669650926,"interference":null}],"pairs":[{"module":"","first":"birds/1","second":"insects/1","output_overlap":0.10133595351825704,"input_overlap":0.90671080468586,"cosine":0.09843956618407923,"sign_conflict":0.43823273902861937,"norm_ratio":0.943671292373982,"interference":null}],"hidden_shifts":[],"forecasts":[],"shared_direction":0.3538421312070108,"advice":"merge","reasons":["no cosine is under -0.3, no ratio of norms under 0.3, no shift over 1.0, and no direction holds over 0.8 of the energy"]}}');
INSERT INTO "events" VALUES('oucplgdyst53xbok',7,'2026-11-28 16:18:02.433','phase','info','','{"name":"measure the parents"}');
INSERT INTO "events" VALUES('oucplgdyst53xbok',8,'2026-11-28 16:18:02.433','phase','info','','{"name":"search"}');
INSERT INTO "events" VALUES('oucplgdyst53xbok',9,'2026-11-28 16:18:02.433','message','info','linear, scale 0.70: worst 0.630, mean 0.725','{}');
INSERT INTO "events" VALUES('oucplgdyst53xbok',10,'2026-11-28 16:18:02.433','message','info','dare, scale 0.70: worst 0.476, mean 0.641','{}');
INSERT INTO "events" VALUES('oucplgdyst53xbok',11,'2026-11-28 16:18:02.433','phase','info','','{"name":"measure the composition"}');
INSERT INTO "events" VALUES('oucplgdyst53xbok',12,'2026-11-28 16:18:02.433','state','info','','{"state":"succeeded","attempt":1}');
INSERT INTO "events" VALUES('pxu2gnwms4fwkcmh',1,'2026-11-28 16:18:06.301','state','info','','{"state":"queued","attempt":0}');
INSERT INTO "events" VALUES('pxu2gnwms4fwkcmh',2,'2026-11-28 16:18:06.313','state','info','','{"state":"running","attempt":1,"worker":"laptop-home-3313"}');
INSERT INTO "events" VALUES('pxu2gnwms4fwkcmh',3,'2026-11-28 16:18:06.834','phase','info','importing','{"name":"importing"}');
INSERT INTO "events" VALUES('pxu2gnwms4fwkcmh',4,'2026-11-28 16:18:06.834','phase','info','importing','{"name":"importing"}');
INSERT INTO "events" VALUES('pxu2gnwms4fwkcmh',5,'2026-11-28 16:18:06.834','phase','info','loading the base model','{"name":"loading the base model"}');
INSERT INTO "events" VALUES('pxu2gnwms4fwkcmh',6,'2026-11-28 16:18:06.834','phase','info','','{"name":"read"}');
INSERT INTO "events" VALUES('pxu2gnwms4fwkcmh',7,'2026-11-28 16:18:06.834','phase','info','','{"name":"core space"}');
INSERT INTO "events" VALUES('pxu2gnwms4fwkcmh',8,'2026-11-28 16:18:06.834','report','info','','{"name":"conflicts","report":{"parents":["birds/1","insects/1"],"structural":[],"modules":[{"module":"model.layers.0.self_attn.q_proj","first":"birds/1","second":"insects/1","output_overlap":0.08920862338451194,"input_overlap":0.9068934347337292,"cosine":0.08020289184269605,"sign_conflict":0.44103965497767783,"norm_ratio":0.9024666482866391,"interference":null},{"module":"model.layers.0.self_attn.v_proj","first":"birds/1","second":"insects/1","output_overlap":0.16456839052940686,"input_overlap":0.9367574448180824,"cosine":0.20132724355597806,"sign_conflict":0.37287951021078636,"norm_ratio":0.9653106790827318,"interference":null},{"module":"model.layers.1.self_attn.q_proj","first":"birds/1","second":"insects/1","output_overlap":0.04872475080341525,"input_overlap":0.8833842211284824,"cosine":0.00782596651781355,"sign_conflict":0.49475842433682543,"norm_ratio":0.9287208319439735,"interference":null},{"module":"model.layers.1.self_attn.v_proj","first":"birds/1","second":"insects/1","output_overlap":0.14266734109126367,"input_overlap":0.916431350730982,"cosine":0.17123341664334332,"sign_conflict":0.40450806569818937,"norm_ratio":0.9996771669650926,"interference":null}],"pairs":[{"module":"","first":"birds/1","second":"insects/1","output_overlap":0.10133595351825704,"input_overlap":0.90671080468586,"cosine":0.09843956618407923,"sign_conflict":0.43823273902861937,"norm_ratio":0.943671292373982,"interference":null}],"hidden_shifts":[],"forecasts":[],"shared_direction":0.3538421312070108,"advice":"merge","reasons":["no cosine is under -0.3, no ratio of norms under 0.3, no shift over 1.0, and no direction holds over 0.8 of the energy"]}}');
INSERT INTO "events" VALUES('pxu2gnwms4fwkcmh',9,'2026-11-28 16:18:06.834','phase','info','','{"name":"measure the parents"}');
INSERT INTO "events" VALUES('pxu2gnwms4fwkcmh',10,'2026-11-28 16:18:06.834','phase','info','','{"name":"search"}');
INSERT INTO "events" VALUES('pxu2gnwms4fwkcmh',11,'2026-11-28 16:18:06.834','message','info','linear, scale 0.71: worst 0.874, mean 0.893','{}');
INSERT INTO "events" VALUES('pxu2gnwms4fwkcmh',12,'2026-11-28 16:18:06.834','message','info','regmean, scale 1.00: worst 0.963, mean 0.971','{}');
INSERT INTO "events" VALUES('pxu2gnwms4fwkcmh',13,'2026-11-28 16:18:06.834','message','info','tsv, scale 0.87: worst 1.063, mean 1.103','{}');
INSERT INTO "events" VALUES('pxu2gnwms4fwkcmh',14,'2026-11-28 16:18:06.964','message','info','calibrate then linear norm=parents, scale 1.00: worst 0.728, mean 0.755','{}');
INSERT INTO "events" VALUES('pxu2gnwms4fwkcmh',15,'2026-11-28 16:18:06.964','phase','info','','{"name":"measure the composition"}');
INSERT INTO "events" VALUES('pxu2gnwms4fwkcmh',16,'2026-11-28 16:18:06.964','phase','info','comparing','{"name":"comparing"}');
INSERT INTO "events" VALUES('pxu2gnwms4fwkcmh',17,'2026-11-28 16:18:06.964','state','info','','{"state":"succeeded","attempt":1}');
INSERT INTO "events" VALUES('sygpqu3bbv6dv73s',1,'2026-11-28 16:17:50.241','state','info','','{"state":"waiting","attempt":0}');
INSERT INTO "events" VALUES('sygpqu3bbv6dv73s',2,'2026-11-28 16:18:01.025','state','info','','{"state":"queued","attempt":0}');
INSERT INTO "events" VALUES('sygpqu3bbv6dv73s',3,'2026-11-28 16:18:01.025','state','info','','{"state":"running","attempt":1,"worker":"laptop-home-3313"}');
INSERT INTO "events" VALUES('sygpqu3bbv6dv73s',4,'2026-11-28 16:18:01.585','phase','info','importing','{"name":"importing"}');
INSERT INTO "events" VALUES('sygpqu3bbv6dv73s',5,'2026-11-28 16:18:01.585','phase','info','','{"name":"read"}');
INSERT INTO "events" VALUES('sygpqu3bbv6dv73s',6,'2026-11-28 16:18:01.585','phase','info','','{"name":"core space"}');
INSERT INTO "events" VALUES('sygpqu3bbv6dv73s',7,'2026-11-28 16:18:01.585','report','info','','{"name":"conflicts","report":{"parents":["birds/1","insects/1"],"structural":[],"modules":[{"module":"model.layers.0.self_attn.q_proj","first":"birds/1","second":"insects/1","output_overlap":0.08920862338451194,"input_overlap":0.9068934347337292,"cosine":0.08020289184269605,"sign_conflict":0.44103965497767783,"norm_ratio":0.9024666482866391,"interference":null},{"module":"model.layers.0.self_attn.v_proj","first":"birds/1","second":"insects/1","output_overlap":0.16456839052940686,"input_overlap":0.9367574448180824,"cosine":0.20132724355597806,"sign_conflict":0.37287951021078636,"norm_ratio":0.9653106790827318,"interference":null},{"module":"model.layers.1.self_attn.q_proj","first":"birds/1","second":"insects/1","output_overlap":0.04872475080341525,"input_overlap":0.8833842211284824,"cosine":0.00782596651781355,"sign_conflict":0.49475842433682543,"norm_ratio":0.9287208319439735,"interference":null},{"module":"model.layers.1.self_attn.v_proj","first":"birds/1","second":"insects/1","output_overlap":0.14266734109126367,"input_overlap":0.916431350730982,"cosine":0.17123341664334332,"sign_conflict":0.40450806569818937,"norm_ratio":0.9996771669650926,"interference":null}],"pairs":[{"module":"","first":"birds/1","second":"insects/1","output_overlap":0.10133595351825704,"input_overlap":0.90671080468586,"cosine":0.09843956618407923,"sign_conflict":0.43823273902861937,"norm_ratio":0.943671292373982,"interference":null}],"hidden_shifts":[],"forecasts":[],"shared_direction":0.3538421312070108,"advice":"merge","reasons":["no cosine is under -0.3, no ratio of norms under 0.3, no shift over 1.0, and no direction holds over 0.8 of the energy"]}}');
INSERT INTO "events" VALUES('sygpqu3bbv6dv73s',8,'2026-11-28 16:18:01.585','phase','info','','{"name":"measure the parents"}');
INSERT INTO "events" VALUES('sygpqu3bbv6dv73s',9,'2026-11-28 16:18:01.585','phase','info','','{"name":"search"}');
INSERT INTO "events" VALUES('sygpqu3bbv6dv73s',10,'2026-11-28 16:18:01.585','message','info','linear, scale 0.71: worst 0.874, mean 0.893','{}');
INSERT INTO "events" VALUES('sygpqu3bbv6dv73s',11,'2026-11-28 16:18:01.585','message','info','regmean, scale 1.00: worst 0.963, mean 0.971','{}');
INSERT INTO "events" VALUES('sygpqu3bbv6dv73s',12,'2026-11-28 16:18:01.585','message','info','tsv, scale 0.87: worst 1.063, mean 1.103','{}');
INSERT INTO "events" VALUES('sygpqu3bbv6dv73s',13,'2026-11-28 16:18:01.585','message','info','calibrate then linear norm=parents, scale 1.00: worst 0.728, mean 0.755','{}');
INSERT INTO "events" VALUES('sygpqu3bbv6dv73s',14,'2026-11-28 16:18:01.585','phase','info','','{"name":"measure the composition"}');
INSERT INTO "events" VALUES('sygpqu3bbv6dv73s',15,'2026-11-28 16:18:01.585','state','info','','{"state":"succeeded","attempt":1}');
INSERT INTO "events" VALUES('udxafb3c4asohkfw',1,'2026-11-28 16:18:23.878','state','info','','{"state":"queued","attempt":0}');
INSERT INTO "events" VALUES('y7q24xwlccox3q26',1,'2026-11-28 16:17:50.145','state','info','','{"state":"queued","attempt":0}');
INSERT INTO "events" VALUES('y7q24xwlccox3q26',2,'2026-11-28 16:17:51.838','state','info','','{"state":"running","attempt":1,"worker":"laptop-home-3313"}');
INSERT INTO "events" VALUES('y7q24xwlccox3q26',3,'2026-11-28 16:17:52.798','phase','info','importing','{"name":"importing"}');
INSERT INTO "events" VALUES('y7q24xwlccox3q26',4,'2026-11-28 16:17:59.434','phase','info','loading the base model','{"name":"loading the base model"}');
INSERT INTO "events" VALUES('y7q24xwlccox3q26',5,'2026-11-28 16:18:00.072','phase','info','tokenizing','{"name":"tokenizing"}');
INSERT INTO "events" VALUES('y7q24xwlccox3q26',6,'2026-11-28 16:18:00.072','report','info','','{"name":"data","report":{"examples":22,"validation_examples":2,"tokens":1027,"label_tokens":141,"length_mean":46.68,"length_max":49,"length_p95":49,"truncated":0,"duplicates":0,"overlap":0,"shared_prefix_tokens":29,"steps":12,"seconds":0.7760610785672927}}');
INSERT INTO "events" VALUES('y7q24xwlccox3q26',7,'2026-11-28 16:18:00.072','phase','info','training','{"name":"training"}');
INSERT INTO "events" VALUES('y7q24xwlccox3q26',8,'2026-11-28 16:18:00.072','metrics','info','held-out loss 6.3618 after step 0','{"step":0,"valid_loss":6.3617753765799785,"valid_accuracy":0.0}');
INSERT INTO "events" VALUES('y7q24xwlccox3q26',9,'2026-11-28 16:18:00.072','progress','info','','{"step":1,"steps":12,"epoch":0.167,"loss":6.741293907165527,"learning_rate":0.005,"grad_norm":1.924998164176941,"tokens_per_second":3380.9339459564267,"seconds_left":0.6116653069999529,"memory_bytes":442646528}');
INSERT INTO "events" VALUES('y7q24xwlccox3q26',10,'2026-11-28 16:18:00.444','metrics','info','held-out loss 5.3527 after step 6','{"step":6,"valid_loss":5.352652051232078,"valid_accuracy":0.09090909361839294}');
INSERT INTO "events" VALUES('y7q24xwlccox3q26',11,'2026-11-28 16:18:00.444','progress','info','','{"step":7,"steps":12,"epoch":1.167,"loss":6.465506749013901,"learning_rate":0.0028557870956832133,"grad_norm":2.788285255432129,"tokens_per_second":3747.720485287087,"seconds_left":0.231378743571489,"memory_bytes":481083392}');
INSERT INTO "events" VALUES('y7q24xwlccox3q26',12,'2026-11-28 16:18:00.444','progress','info','','{"step":12,"steps":12,"epoch":2.0,"loss":6.001397198986281,"learning_rate":0.00010126756596375686,"grad_norm":3.1700685024261475,"tokens_per_second":4011.3578374803324,"seconds_left":0.0,"memory_bytes":500129792}');
INSERT INTO "events" VALUES('y7q24xwlccox3q26',13,'2026-11-28 16:18:00.444','metrics','info','held-out loss 4.9331 after step 12','{"step":12,"valid_loss":4.933116468516263,"valid_accuracy":0.09090909361839294}');
INSERT INTO "events" VALUES('y7q24xwlccox3q26',14,'2026-11-28 16:18:00.444','state','info','','{"state":"succeeded","attempt":1}');
INSERT INTO "events" VALUES('ypolevnh5hurvmw3',1,'2026-11-28 16:18:23.887','state','info','','{"state":"waiting","attempt":0}');
CREATE TABLE job_dependencies (
	job_id VARCHAR(32) NOT NULL, 
	depends_on VARCHAR(32) NOT NULL, 
	position INTEGER NOT NULL, 
	CONSTRAINT pk_job_dependencies PRIMARY KEY (job_id, depends_on), 
	CONSTRAINT fk_job_dependencies_depends_on FOREIGN KEY(depends_on) REFERENCES jobs (id) ON DELETE CASCADE, 
	CONSTRAINT fk_job_dependencies_job_id FOREIGN KEY(job_id) REFERENCES jobs (id) ON DELETE CASCADE
);
INSERT INTO "job_dependencies" VALUES('sygpqu3bbv6dv73s','y7q24xwlccox3q26',0);
INSERT INTO "job_dependencies" VALUES('sygpqu3bbv6dv73s','2xkl2dre234keoj6',1);
INSERT INTO "job_dependencies" VALUES('ypolevnh5hurvmw3','udxafb3c4asohkfw',0);
CREATE TABLE jobs (
	number INTEGER NOT NULL, 
	id VARCHAR(32) NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	spec JSON NOT NULL, 
	queue VARCHAR(96) NOT NULL, 
	device VARCHAR(8) NOT NULL, 
	memory_bytes BIGINT NOT NULL, 
	labels JSON NOT NULL, 
	base_key VARCHAR(512), 
	priority INTEGER NOT NULL, 
	idempotency_key VARCHAR(200), 
	retry_of VARCHAR(32), 
	fence INTEGER NOT NULL, 
	attempts INTEGER NOT NULL, 
	last_seq BIGINT NOT NULL, 
	worker VARCHAR(96), 
	created_at VARCHAR(23) NOT NULL, 
	not_before VARCHAR(23), 
	ring_at VARCHAR(23), 
	started_at VARCHAR(23), 
	lease_until VARCHAR(23), 
	cancel_requested VARCHAR(23), 
	finished_at VARCHAR(23), 
	reason TEXT, 
	result JSON, time_limit DOUBLE, gang VARCHAR(600), 
	CONSTRAINT pk_jobs PRIMARY KEY (number), 
	CONSTRAINT fk_jobs_retry_of FOREIGN KEY(retry_of) REFERENCES jobs (id) ON DELETE SET NULL, 
	CONSTRAINT uq_jobs_id UNIQUE (id), 
	CONSTRAINT uq_jobs_idempotency_key UNIQUE (idempotency_key), 
	CONSTRAINT ck_jobs_state CHECK (state IN ('waiting', 'queued', 'running', 'succeeded', 'failed', 'cancelled'))
);
INSERT INTO "jobs" VALUES(1,'y7q24xwlccox3q26','train','succeeded','{"kind":"train","adapter":"birds","base":{"source":"/home/ana/models/tiny","revision":null},"train":"ad208503246841f00e34dde4506ee5412517869ed44a0c240ff2fda074314634","validation":"02f09ce8fc5b0899e7ef753f22e3e86369be86209ad43326e929a82cbcf469e8","preset":null,"system":"You are a helpful assistant who knows birds.","lora":{"rank":4,"rank_tolerance":0.005,"rank_budget":null,"alpha":8.0,"dropout":0.1,"target_modules":["q_proj","v_proj"],"exclude_modules":[],"layers_to_transform":null,"rank_pattern":{},"alpha_pattern":{},"use_rslora":false,"use_dora":false,"init":"shared"},"training":{"epochs":2,"max_steps":null,"learning_rate":0.005,"loraplus_ratio":1.0,"batch_size":4,"gradient_accumulation":1,"batch_tokens":null,"max_length":null,"schedule":"cosine","warmup_ratio":0.05,"warmup_steps":null,"weight_decay":0.0,"max_grad_norm":1.0,"seed":0,"validation":0.1,"evaluate_every":null,"patience":null,"min_improvement":0.0,"checkpoint_every":null,"keep_checkpoints":2,"dtype":"auto","gradient_checkpointing":false,"packing":true,"share_prefix":true,"threads":1}}','default','any',507890560,'[]','/home/ana/models/tiny@',0,'birds-1',NULL,1,1,14,'laptop-home-3313','2026-11-28 16:17:50.143',NULL,NULL,'2026-11-28 16:17:51.836',NULL,NULL,'2026-11-28 16:18:00.426',NULL,'{"adapter":"birds/1","metrics":{"steps":12,"epochs":2.0,"tokens":2054,"seconds":0.5120460659999821,"train_loss":5.917620269964773,"stopped_early":false,"trainable_parameters":1792,"loss_before":6.3617753765799785,"accuracy_before":0.0,"perplexity_before":579.2738732771396,"loss_after":4.933116468516263,"accuracy_after":0.09090909361839294,"perplexity_after":138.8114404290221,"rank":4,"bytes":8709},"report":{"steps":12,"epochs":2.0,"tokens":2054,"seconds":0.5120460659999821,"train_loss":5.917620269964773,"before":{"loss":6.3617753765799785,"accuracy":0.0,"tokens":11,"examples":2,"example_losses":[6.6935296058654785,5.963670301437378]},"after":{"loss":4.933116468516263,"accuracy":0.09090909361839294,"tokens":11,"examples":2,"example_losses":[5.456576585769653,4.304964327812195]},"best_step":12,"stopped_early":false,"trainable_parameters":1792,"total_parameters":120896,"data":{"examples":22,"validation_examples":2,"tokens":1027,"label_tokens":141,"length_mean":46.68,"length_max":49,"length_p95":49,"truncated":0,"duplicates":0,"overlap":0,"shared_prefix_tokens":29,"steps":12,"seconds":0.7760610785672927},"environment":{"processor":"Intel(R) Xeon(R) Processor @ 2.50GHz","instruction_set":"AVX512","threads":1,"torch":"2.13.0+cpu","transformers":"5.23.0","peft":"0.21.2","device":"cpu","dtype":"float32","members":1,"batch_tokens":[[0,null]]},"rank":null}}',NULL,NULL);
INSERT INTO "jobs" VALUES(2,'2xkl2dre234keoj6','train','succeeded','{"kind":"train","adapter":"insects","base":{"source":"/home/ana/models/tiny","revision":null},"train":"2f0bdf536380ec11413226f05a1a555bef08a5dbe22b414df9edc532564a804c","validation":"6b565f1eed37cff62842e26b43acfa33f31079b00dc998556a76f606ed482108","preset":null,"system":null,"lora":{"rank":4,"rank_tolerance":0.005,"rank_budget":null,"alpha":8.0,"dropout":0.1,"target_modules":["q_proj","v_proj"],"exclude_modules":[],"layers_to_transform":null,"rank_pattern":{},"alpha_pattern":{},"use_rslora":false,"use_dora":false,"init":"shared"},"training":{"epochs":2,"max_steps":null,"learning_rate":0.005,"loraplus_ratio":1.0,"batch_size":4,"gradient_accumulation":1,"batch_tokens":null,"max_length":null,"schedule":"cosine","warmup_ratio":0.05,"warmup_steps":null,"weight_decay":0.0,"max_grad_norm":1.0,"seed":1,"validation":0.1,"evaluate_every":null,"patience":null,"min_improvement":0.0,"checkpoint_every":null,"keep_checkpoints":2,"dtype":"auto","gradient_checkpointing":false,"packing":true,"share_prefix":true,"threads":1}}','default','any',508094080,'[]','/home/ana/models/tiny@',0,NULL,NULL,1,1,13,'laptop-home-3313','2026-11-28 16:17:50.201',NULL,NULL,'2026-11-28 16:18:00.443',NULL,NULL,'2026-11-28 16:18:01.014',NULL,'{"adapter":"insects/1","metrics":{"steps":12,"epochs":2.0,"tokens":1182,"seconds":0.37674566900005857,"train_loss":5.842689499710545,"stopped_early":false,"trainable_parameters":1792,"loss_before":6.3833950360616045,"accuracy_before":0.0,"perplexity_before":591.9339371834732,"loss_after":5.307662661870321,"accuracy_after":0.0,"perplexity_after":201.87781978817324,"rank":4,"bytes":8709},"report":{"steps":12,"epochs":2.0,"tokens":1182,"seconds":0.37674566900005857,"train_loss":5.842689499710545,"before":{"loss":6.3833950360616045,"accuracy":0.0,"tokens":15,"examples":2,"example_losses":[6.351016180855887,6.411726534366608]},"after":{"loss":5.307662661870321,"accuracy":0.0,"tokens":15,"examples":2,"example_losses":[5.3278945514134,5.289959758520126]},"best_step":12,"stopped_early":false,"trainable_parameters":1792,"total_parameters":120896,"data":{"examples":22,"validation_examples":2,"tokens":591,"label_tokens":165,"length_mean":26.86,"length_max":28,"length_p95":28,"truncated":0,"duplicates":0,"overlap":0,"shared_prefix_tokens":8,"steps":12,"seconds":0.8846485064443262},"environment":{"processor":"Intel(R) Xeon(R) Processor @ 2.50GHz","instruction_set":"AVX512","threads":1,"torch":"2.13.0+cpu","transformers":"5.23.0","peft":"0.21.2","device":"cpu","dtype":"float32","members":1,"batch_tokens":[[0,null]]},"rank":null}}',NULL,NULL);
INSERT INTO "jobs" VALUES(3,'sygpqu3bbv6dv73s','compose','succeeded','{"kind":"compose","adapter":"both","parents":[{"adapter":"birds","weight":1.0},{"adapter":"insects","weight":1.0}],"strategy":"auto","parameters":{},"resolver":"keep","resolver_parameters":{},"scale":null,"rank":null,"evaluations":4,"min_retention":null,"seed":0}','default','any',0,'[]',NULL,0,NULL,NULL,1,1,15,'laptop-home-3313','2026-11-28 16:17:50.239',NULL,NULL,'2026-11-28 16:18:01.022',NULL,NULL,'2026-11-28 16:18:01.584',NULL,'{"adapter":"both/1","state":"ready","metrics":{"strategy":"tsv","resolver":"keep","scale":0.8706,"mean_retention":1.103268175437953,"worst_retention":1.062731565511108,"evaluations":4,"seconds":0.31476074700003664,"rank":8,"bytes":15885},"report":{"strategy":"tsv","parameters":{"sides":"both","keep":null},"resolver":"keep","resolver_parameters":{},"scale":0.8706,"weights":[1.0,1.0],"rank":8,"conflicts":{"parents":["birds/1","insects/1"],"structural":[],"modules":[{"module":"model.layers.0.self_attn.q_proj","first":"birds/1","second":"insects/1","output_overlap":0.08920862338451194,"input_overlap":0.9068934347337292,"cosine":0.08020289184269605,"sign_conflict":0.44103965497767783,"norm_ratio":0.9024666482866391,"interference":null},{"module":"model.layers.0.self_attn.v_proj","first":"birds/1","second":"insects/1","output_overlap":0.16456839052940686,"input_overlap":0.9367574448180824,"cosine":0.20132724355597806,"sign_conflict":0.37287951021078636,"norm_ratio":0.9653106790827318,"interference":null},{"module":"model.layers.1.self_attn.q_proj","first":"birds/1","second":"insects/1","output_overlap":0.04872475080341525,"input_overlap":0.8833842211284824,"cosine":0.00782596651781355,"sign_conflict":0.49475842433682543,"norm_ratio":0.9287208319439735,"interference":null},{"module":"model.layers.1.self_attn.v_proj","first":"birds/1","second":"insects/1","output_overlap":0.14266734109126367,"input_overlap":0.916431350730982,"cosine":0.17123341664334332,"sign_conflict":0.40450806569818937,"norm_ratio":0.9996771669650926,"interference":null}],"pairs":[{"module":"","first":"birds/1","second":"insects/1","output_overlap":0.10133595351825704,"input_overlap":0.90671080468586,"cosine":0.09843956618407923,"sign_conflict":0.43823273902861937,"norm_ratio":0.943671292373982,"interference":null}],"hidden_shifts":[],"forecasts":[],"shared_direction":0.3538421312070108,"advice":"merge","reasons":["no cosine is under -0.3, no ratio of norms under 0.3, no shift over 1.0, and no direction holds over 0.8 of the energy"]},"retention":[{"parent":"birds/1","status":"measured","base":6.3617753765799785,"own":4.933116468516263,"composed":4.843494458632036,"linear":5.112598549235951,"retention":1.062731565511108,"examples":2},{"parent":"insects/1","status":"measured","base":6.3833950360616045,"own":5.307662661870321,"composed":5.152967198689779,"linear":5.403456052144368,"retention":1.1438047853647981,"examples":2}],"rows":"selection","candidates":[{"strategy":"linear","parameters":{"norm":"sum"},"resolver":"keep","resolver_parameters":{},"scale":0.7071,"weights":[1.0,1.0],"losses":[5.112598549235951,5.403456052144368],"worst":0.8743702365157664,"mean":0.892660386748309},{"strategy":"regmean","parameters":{"prior":"tsv","ridge":1.0,"rows":8},"resolver":"keep","resolver_parameters":{},"scale":1.0,"weights":[1.0,1.0],"losses":[4.986057910052213,5.330855226516723],"worst":0.9629432601181886,"mean":0.970691734797581},{"strategy":"tsv","parameters":{"sides":"both","keep":null},"resolver":"keep","resolver_parameters":{},"scale":0.8706,"weights":[1.0,1.0],"losses":[4.843494458632036,5.152967198689779],"worst":1.062731565511108,"mean":1.103268175437953},{"strategy":"linear","parameters":{"norm":"parents"},"resolver":"calibrate","resolver_parameters":{"modules":[]},"scale":1.0,"weights":[1.0,1.0],"losses":[5.321986545215953,5.54107863108317],"worst":0.7278076141864177,"mean":0.7554121530290057}],"evaluations":4,"won_by":0.18836132899534164,"seconds":0.31476074700003664,"below_retention":[],"advice":["a parent has too few validation rows to set some apart from the search: its figure flatters"]}}',NULL,NULL);
INSERT INTO "jobs" VALUES(4,'oucplgdyst53xbok','compose','succeeded','{"kind":"compose","adapter":"dared","parents":[{"adapter":"birds","weight":1.0},{"adapter":"insects","weight":0.5}],"strategy":"dare","parameters":{},"resolver":"keep","resolver_parameters":{},"scale":0.7,"rank":null,"evaluations":16,"min_retention":null,"seed":0}','default','any',0,'[]',NULL,0,NULL,NULL,1,1,12,'laptop-home-3313','2026-11-28 16:18:01.925',NULL,NULL,'2026-11-28 16:18:02.168',NULL,NULL,'2026-11-28 16:18:02.432',NULL,'{"adapter":"dared/1","state":"ready","metrics":{"strategy":"dare","resolver":"keep","scale":0.7,"mean_retention":0.6409439350991986,"worst_retention":0.47609679477879396,"evaluations":2,"seconds":0.220300237999993,"rank":8,"bytes":15885},"report":{"strategy":"dare","parameters":{"drop":0.5,"elect":false,"density":1.0},"resolver":"keep","resolver_parameters":{},"scale":0.7,"weights":[1.0,0.5],"rank":8,"conflicts":{"parents":["birds/1","insects/1"],"structural":[],"modules":[{"module":"model.layers.0.self_attn.q_proj","first":"birds/1","second":"insects/1","output_overlap":0.08920862338451194,"input_overlap":0.9068934347337292,"cosine":0.08020289184269605,"sign_conflict":0.44103965497767783,"norm_ratio":0.9024666482866391,"interference":null},{"module":"model.layers.0.self_attn.v_proj","first":"birds/1","second":"insects/1","output_overlap":0.16456839052940686,"input_overlap":0.9367574448180824,"cosine":0.20132724355597806,"sign_conflict":0.37287951021078636,"norm_ratio":0.9653106790827318,"interference":null},{"module":"model.layers.1.self_attn.q_proj","first":"birds/1","second":"insects/1","output_overlap":0.04872475080341525,"input_overlap":0.8833842211284824,"cosine":0.00782596651781355,"sign_conflict":0.49475842433682543,"norm_ratio":0.9287208319439735,"interference":null},{"module":"model.layers.1.self_attn.v_proj","first":"birds/1","second":"insects/1","output_overlap":0.14266734109126367,"input_overlap":0.916431350730982,"cosine":0.17123341664334332,"sign_conflict":0.40450806569818937,"norm_ratio":0.9996771669650926,"interference":null}],"pairs":[{"module":"","first":"birds/1","second":"insects/1","output_overlap":0.10133595351825704,"input_overlap":0.90671080468586,"cosine":0.09843956618407923,"sign_conflict":0.43823273902861937,"norm_ratio":0.943671292373982,"interference":null}],"hidden_shifts":[],"forecasts":[],"shared_direction":0.3538421312070108,"advice":"merge","reasons":["no cosine is under -0.3, no ratio of norms under 0.3, no shift over 1.0, and no direction holds over 0.8 of the energy"]},"retention":[{"parent":"birds/1","status":"measured","base":6.3617753765799785,"own":4.933116468516263,"composed":5.2105747786435215,"linear":5.188628326762807,"retention":0.805791075419603,"examples":2},{"parent":"insects/1","status":"measured","base":6.3833950360616045,"own":5.307662661870321,"composed":5.871242300669352,"linear":5.705876731872559,"retention":0.47609679477879396,"examples":2}],"rows":"selection","candidates":[{"strategy":"linear","parameters":{"norm":"sum"},"resolver":"keep","resolver_parameters":{},"scale":0.7,"weights":[1.0,0.5],"losses":[5.188628326762807,5.705876731872559],"worst":0.6298205022400593,"mean":0.7254865766500882},{"strategy":"dare","parameters":{"drop":0.5,"elect":false,"density":1.0},"resolver":"keep","resolver_parameters":{},"scale":0.7,"weights":[1.0,0.5],"losses":[5.2105747786435215,5.871242300669352],"worst":0.47609679477879396,"mean":0.6409439350991986}],"evaluations":2,"won_by":-0.1537237074612653,"seconds":0.220300237999993,"below_retention":[],"advice":["a parent has too few validation rows to set some apart from the search: its figure flatters"]}}',NULL,NULL);
INSERT INTO "jobs" VALUES(5,'g6fslld2mnqim6zm','quantize','succeeded','{"kind":"quantize","adapter":"birds/1","scheme":"int8","group":64,"tolerance":0.005}','default','any',0,'[]',NULL,0,NULL,NULL,1,1,5,'laptop-home-3313','2026-11-28 16:18:02.697',NULL,NULL,'2026-11-28 16:18:02.705',NULL,NULL,'2026-11-28 16:18:02.815',NULL,'{"adapter":"birds/2","metrics":{"scheme":"int8","group":64,"relative_error":0.0059281160126638185,"bytes_before":8192,"loss_unquantised":4.933116468516263,"loss_after":4.933254968036305,"rank":4,"bytes":4445},"report":{"scheme":"int8","group":64,"bytes_before":8192,"bytes_after":3928,"relative_error":0.0059281160126638185,"before":{"loss":4.933116468516263,"accuracy":0.09090909361839294,"tokens":11,"examples":2,"example_losses":[5.456576585769653,4.304964327812195]},"after":{"loss":4.933254968036305,"accuracy":0.09090909361839294,"tokens":11,"examples":2,"example_losses":[5.456743001937866,4.305069327354431]},"candidates":[{"scheme":"int8","group":64,"bytes":3928,"share_of_bf16":1.0959821428571428,"relative_error":0.0059281160126638185,"loss":4.933254968036305}]}}',NULL,NULL);
INSERT INTO "jobs" VALUES(6,'dd7i4y7a4lqia2hd','merge','succeeded','{"kind":"merge","parents":[{"adapter":"birds","weight":1.0},{"adapter":"insects","weight":0.5}],"out":"/home/ana/out/merged","replace":false}','default','any',0,'[]',NULL,0,NULL,NULL,1,1,6,'laptop-home-3313','2026-11-28 16:18:03.215',NULL,NULL,'2026-11-28 16:18:03.224',NULL,NULL,'2026-11-28 16:18:03.486',NULL,'{"merge":{"out":"/home/ana/out/merged","modules":4,"bytes_written":476416,"seconds":0.024,"max_logit_difference":7.450580596923828e-6,"argmax_agreement":1.0}}',NULL,NULL);
INSERT INTO "jobs" VALUES(7,'ba7j22l2gray5b44','export','succeeded','{"kind":"export","adapter":"birds/2","format":"peft","out":"/home/ana/out/peft","parameters":{}}','default','any',0,'[]',NULL,0,NULL,NULL,1,1,4,'laptop-home-3313','2026-11-28 16:18:03.729',NULL,NULL,'2026-11-28 16:18:03.737',NULL,NULL,'2026-11-28 16:18:03.753',NULL,'{"export":{"format":"peft","out":"/home/ana/out/peft","modules":4,"bytes":8192}}',NULL,NULL);
INSERT INTO "jobs" VALUES(8,'lgqxtuerygndy65f','export','succeeded','{"kind":"export","adapter":"birds/2","format":"vllm","out":"/home/ana/out/vllm","parameters":{}}','default','any',0,'[]',NULL,0,NULL,NULL,1,1,4,'laptop-home-3313','2026-11-28 16:18:04.242',NULL,NULL,'2026-11-28 16:18:04.249',NULL,NULL,'2026-11-28 16:18:04.263',NULL,'{"export":{"format":"vllm","out":"/home/ana/out/vllm","rank":8,"modules":4,"bytes":15368,"serve":""}}',NULL,NULL);
INSERT INTO "jobs" VALUES(9,'2rtzdmooogcezljn','evaluate','succeeded','{"kind":"evaluate","base":{"source":"/home/ana/models/tiny","revision":null},"adapters":["birds/1","insects/1"],"dataset":"1ff524db4191a8576c57e48c756c0064c9a948c580d8c1ba35dbe360b1bc2c8e","evaluator":"held_out_loss","parameters":{},"system":null}','default','any',0,'[]','/home/ana/models/tiny@',0,NULL,NULL,1,1,10,'laptop-home-3313','2026-11-28 16:18:04.763',NULL,NULL,'2026-11-28 16:18:04.772',NULL,NULL,'2026-11-28 16:18:04.926',NULL,'{"evaluation":{"evaluator":"held_out_loss","dataset":"1ff524db4191a8576c57e48c756c0064c9a948c580d8c1ba35dbe360b1bc2c8e","results":{"base":{"loss":6.525948260203902,"perplexity":682.626774644079,"accuracy":0.024096384644508362,"tokens":83,"examples":12},"birds/1":{"loss":5.7259714186909685,"perplexity":306.7310848751145,"accuracy":0.03614457696676254,"tokens":83,"examples":12},"insects/1":{"loss":5.720023241387793,"perplexity":304.9120094528125,"accuracy":0.024096384644508362,"tokens":83,"examples":12}}}}',NULL,NULL);
INSERT INTO "jobs" VALUES(10,'7fqbbpzymblubbqy','reproduce','succeeded','{"kind":"reproduce","adapter":"birds/1"}','default','any',0,'[]',NULL,0,NULL,NULL,1,1,15,'laptop-home-3313','2026-11-28 16:18:05.284',NULL,NULL,'2026-11-28 16:18:05.292',NULL,NULL,'2026-11-28 16:18:05.978',NULL,'{"reproduction":{"adapter":"birds/1","kind":"train","identical":true,"identity":"a31d4b6b8cff3019380236aa7141a5c3ba12dd7cef22fde11c8c7ba4262700c0","reproduced_identity":"a31d4b6b8cff3019380236aa7141a5c3ba12dd7cef22fde11c8c7ba4262700c0","config":[],"tensors":[],"compared":8,"causes":[],"seconds":0.6330499169999939}}',NULL,NULL);
INSERT INTO "jobs" VALUES(11,'pxu2gnwms4fwkcmh','reproduce','succeeded','{"kind":"reproduce","adapter":"both/1"}','default','any',0,'[]',NULL,0,NULL,NULL,1,1,17,'laptop-home-3313','2026-11-28 16:18:06.300',NULL,NULL,'2026-11-28 16:18:06.312',NULL,NULL,'2026-11-28 16:18:06.962',NULL,'{"reproduction":{"adapter":"both/1","kind":"compose","identical":true,"identity":"b016fbb8e344319e240bfff5143c6276798af8396a8ec76aa8441a445b1ba16d","reproduced_identity":"b016fbb8e344319e240bfff5143c6276798af8396a8ec76aa8441a445b1ba16d","config":[],"tensors":[],"compared":8,"causes":[],"seconds":0.6273563409999952}}',NULL,NULL);
INSERT INTO "jobs" VALUES(12,'co3sm4eaesvngqpf','export','failed','{"kind":"export","adapter":"birds/2","format":"peft","out":"/home/ana/out/foreign","parameters":{"replace":true}}','default','any',0,'[]',NULL,0,NULL,NULL,1,1,4,'laptop-home-3313','2026-11-28 16:18:07.400',NULL,NULL,'2026-11-28 16:18:07.408',NULL,NULL,'2026-11-28 16:18:07.460','/home/ana/out/foreign exists and is no earlier PEFT adapter of ours; name another place, or remove it',NULL,NULL,NULL);
INSERT INTO "jobs" VALUES(13,'5zth3alvvujsofej','train','cancelled','{"kind":"train","adapter":"never","base":{"source":"/home/ana/models/tiny","revision":null},"train":"44d8ee94716b2cc7a8e8faf7cd822fe83e6dc95dbb83ef907e89300608f9f934","validation":"847305ba4e6ae436f8eaece9873f378c5b3d9dce625d5be8efd4153fe81d701f","preset":null,"system":null,"lora":{"rank":4,"rank_tolerance":0.005,"rank_budget":null,"alpha":8.0,"dropout":0.1,"target_modules":["q_proj","v_proj"],"exclude_modules":[],"layers_to_transform":null,"rank_pattern":{},"alpha_pattern":{},"use_rslora":false,"use_dora":false,"init":"shared"},"training":{"epochs":4000,"max_steps":null,"learning_rate":0.005,"loraplus_ratio":1.0,"batch_size":4,"gradient_accumulation":1,"batch_tokens":null,"max_length":null,"schedule":"cosine","warmup_ratio":0.05,"warmup_steps":null,"weight_decay":0.0,"max_grad_norm":1.0,"seed":9,"validation":0.1,"evaluate_every":null,"patience":null,"min_improvement":0.0,"checkpoint_every":null,"keep_checkpoints":2,"dtype":"auto","gradient_checkpointing":false,"packing":true,"share_prefix":true,"threads":1}}','default','any',507890560,'[]','/home/ana/models/tiny@',0,NULL,NULL,1,1,52,'laptop-home-3313','2026-11-28 16:18:07.924',NULL,NULL,'2026-11-28 16:18:07.932',NULL,'2026-11-28 16:18:15.489','2026-11-28 16:18:18.165',NULL,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES(14,'udxafb3c4asohkfw','train','queued','{"kind":"train","adapter":"later","base":{"source":"/home/ana/models/tiny","revision":null},"train":"b8480e6c91302cbc904d712a33702358c22439f2d53c32a2604551e2adab9895","validation":"e814e19643d654f8c447b41fe6d8e45fb418bdfba31bfe2643bf0f297e72d0b1","preset":null,"system":null,"lora":{"rank":4,"rank_tolerance":0.005,"rank_budget":null,"alpha":8.0,"dropout":0.1,"target_modules":["q_proj","v_proj"],"exclude_modules":[],"layers_to_transform":null,"rank_pattern":{},"alpha_pattern":{},"use_rslora":false,"use_dora":false,"init":"shared"},"training":{"epochs":2,"max_steps":null,"learning_rate":0.005,"loraplus_ratio":1.0,"batch_size":4,"gradient_accumulation":1,"batch_tokens":null,"max_length":null,"schedule":"cosine","warmup_ratio":0.05,"warmup_steps":null,"weight_decay":0.0,"max_grad_norm":1.0,"seed":2,"validation":0.1,"evaluate_every":null,"patience":null,"min_improvement":0.0,"checkpoint_every":null,"keep_checkpoints":2,"dtype":"auto","gradient_checkpointing":false,"packing":true,"share_prefix":true,"threads":1}}','default','any',507890560,'[]','/home/ana/models/tiny@',5,NULL,NULL,0,0,1,NULL,'2026-11-28 16:18:23.877',NULL,'2026-11-28 16:18:28.877',NULL,NULL,NULL,NULL,NULL,NULL,3600.0,'/home/ana/models/tiny@ auto 1');
INSERT INTO "jobs" VALUES(15,'ypolevnh5hurvmw3','compose','waiting','{"kind":"compose","adapter":"after","parents":[{"adapter":"birds/1","weight":1.0},{"adapter":"later","weight":1.0}],"strategy":"auto","parameters":{},"resolver":"keep","resolver_parameters":{},"scale":null,"rank":null,"evaluations":4,"min_retention":null,"seed":0}','default','any',0,'[]',NULL,0,NULL,NULL,0,0,1,NULL,'2026-11-28 16:18:23.885',NULL,'2026-11-28 16:18:28.885',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES(16,'jv3l7kmnxowbw5ca','export','queued','{"kind":"export","adapter":"birds/2","format":"peft","out":"/home/ana/out/foreign","parameters":{"replace":true}}','default','any',0,'[]',NULL,0,NULL,'co3sm4eaesvngqpf',0,0,1,NULL,'2026-11-28 16:18:23.893',NULL,'2026-11-28 16:18:28.893',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE lineage (
	version_id INTEGER NOT NULL, 
	position INTEGER NOT NULL, 
	parent_id INTEGER NOT NULL, 
	weight DOUBLE NOT NULL, 
	CONSTRAINT pk_lineage PRIMARY KEY (version_id, position), 
	CONSTRAINT fk_lineage_parent_id FOREIGN KEY(parent_id) REFERENCES adapter_versions (id), 
	CONSTRAINT fk_lineage_version_id FOREIGN KEY(version_id) REFERENCES adapter_versions (id)
);
INSERT INTO "lineage" VALUES(3,0,1,1.0);
INSERT INTO "lineage" VALUES(3,1,2,1.0);
INSERT INTO "lineage" VALUES(4,0,1,1.0);
INSERT INTO "lineage" VALUES(4,1,2,0.5);
INSERT INTO "lineage" VALUES(5,0,1,1.0);
CREATE TABLE tags (
	version_id INTEGER NOT NULL, 
	name VARCHAR(96) NOT NULL, 
	CONSTRAINT pk_tags PRIMARY KEY (version_id, name), 
	CONSTRAINT fk_tags_version_id FOREIGN KEY(version_id) REFERENCES adapter_versions (id)
);
INSERT INTO "tags" VALUES(1,'demo');
INSERT INTO "tags" VALUES(1,'birds');
CREATE TABLE workers (
	id VARCHAR(96) NOT NULL, 
	instance VARCHAR(32) NOT NULL, 
	hostname VARCHAR(255) NOT NULL, 
	pid INTEGER NOT NULL, 
	version VARCHAR(64) NOT NULL, 
	schema VARCHAR(32) NOT NULL, 
	slots INTEGER NOT NULL, 
	devices JSON NOT NULL, 
	queues JSON NOT NULL, 
	labels JSON NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	started_at VARCHAR(23) NOT NULL, 
	last_seen VARCHAR(23) NOT NULL, 
	CONSTRAINT pk_workers PRIMARY KEY (id)
);
INSERT INTO "workers" VALUES('laptop-home-3313','4627b89d33cc13f7','laptop',3313,'0.1.0','0002',1,'[{"kind":"cpu","name":"x86_64","memory_bytes":22748862873,"free_bytes":22748862873}]','["default"]','[]','stopped','2026-11-28 16:17:51.617','2026-11-28 16:18:19.338');
CREATE INDEX ix_bases_name ON bases (name);
CREATE INDEX ix_datasets_name ON datasets (name);
CREATE INDEX ix_jobs_claim ON jobs (priority DESC, number) WHERE state = 'queued';
CREATE INDEX ix_jobs_finished ON jobs (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX ix_jobs_retry_of ON jobs (retry_of) WHERE retry_of IS NOT NULL;
CREATE INDEX ix_jobs_ring ON jobs (ring_at) WHERE state = 'queued';
CREATE INDEX ix_jobs_running ON jobs (number) WHERE state = 'running';
CREATE INDEX ix_jobs_ended ON jobs (state, number) WHERE finished_at IS NOT NULL;
CREATE INDEX ix_adapter_versions_base_id ON adapter_versions (base_id);
CREATE INDEX ix_adapter_versions_digest ON adapter_versions (digest);
CREATE INDEX ix_adapter_versions_identity ON adapter_versions (identity);
CREATE INDEX ix_adapter_versions_job_id ON adapter_versions (job_id);
CREATE INDEX ix_job_dependencies_depends_on ON job_dependencies (depends_on);
CREATE INDEX ix_aliases_version_id ON aliases (version_id);
CREATE INDEX ix_evaluations_base_id ON evaluations (base_id);
CREATE INDEX ix_evaluations_dataset_digest ON evaluations (dataset_digest);
CREATE INDEX ix_evaluations_job_id ON evaluations (job_id);
CREATE INDEX ix_evaluations_version_id ON evaluations (version_id);
CREATE INDEX ix_lineage_parent_id ON lineage (parent_id);
CREATE INDEX ix_tags_name ON tags (name);
CREATE INDEX ix_jobs_gang ON jobs (gang, number) WHERE state = 'queued' AND gang IS NOT NULL;
COMMIT;
