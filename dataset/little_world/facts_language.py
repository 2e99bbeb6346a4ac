"""Opposites, measure words and collective nouns. One line an entity, both languages; see `relation.table`."""

from dataset.little_world.relation import table

# word | its opposite (one direction only: the pairs are different facts read backwards)
OPPOSITES = table("""
    大 big | 小 small
    高 high | 低 low
    快 fast | 慢 slow
    热 hot | 冷 cold
    长 long | 短 short
    新 new | 旧 old
    多 many | 少 few
    上 up | 下 down
    左 left | 右 right
    前 front | 后 back
    里 inside | 外 outside
    远 far | 近 near
    轻 light | 重 heavy
    软 soft | 硬 hard
    干 dry | 湿 wet
    开 open | 关 closed
    胖 fat | 瘦 thin
    强 strong | 弱 weak
    早 early | 晚 late
    深 deep | 浅 shallow
    宽 wide | 窄 narrow
    厚 thick | 薄 thin
    黑 black | 白 white
    甜 sweet | 苦 bitter
    真 true | 假 false
    美 beautiful | 丑 ugly
    哭 cry | 笑 laugh
    买 buy | 卖 sell
    来 come | 去 go
    胜 win | 败 lose
    生 birth | 死 death
    爱 love | 恨 hate
    满 full | 空 empty
    进 enter | 退 leave
    穷 poor | 富 rich
    干净 clean | 肮脏 dirty
    安静 quiet | 吵闹 noisy
    勇敢 brave | 胆怯 timid
    聪明 clever | 愚笨 stupid
    勤劳 hardworking | 懒惰 lazy
    简单 easy | 困难 difficult
    安全 safe | 危险 dangerous
    开始 begin | 结束 end
    成功 success | 失败 failure
    朋友 friend | 敌人 enemy
    黑夜 night | 白天 day
""")

# noun | in Chinese the measure word of one, in English the collective noun of many
MEASURES = table("""
    马 horses | 匹 herd
    鱼 fish | 条 school
    牛 cattle | 头 herd
    羊 sheep | 只 flock
    狼 wolves | 匹 pack
    狮子 lions | 头 pride
    狗 dogs | 条 pack
    大象 elephants | 头 herd
    鲸 whales | 头 pod
    骆驼 camels | 峰 caravan
    鸟 birds | 只 flock
    大雁 geese | 只 gaggle
    乌鸦 crows | 只 murder
    海豚 dolphins | 只 pod
    猴子 monkeys | 只 troop
    小猫 kittens | 只 litter
    蜜蜂 bees | 只 swarm
    蚂蚁 ants | 只 colony
    蝗虫 locusts | 只 plague
    鸟蛋 eggs | 枚 clutch
    船 ships | 艘 fleet
    飞机 aircraft | 架 squadron
    车厢 carriages | 节 train
    大炮 cannons | 门 battery
    箭 arrows | 支 quiver
    山 mountains | 座 range
    房子 houses | 座 row
    星星 stars | 颗 galaxy
    花 flowers | 朵 bouquet
    树 trees | 棵 grove
    葡萄 grapes | 串 bunch
    香蕉 bananas | 根 bunch
    钥匙 keys | 把 bunch
    楼梯 stairs | 级 flight
    扑克牌 cards | 张 deck
    书 books | 本 stack
    邮票 stamps | 枚 collection
    珍珠 pearls | 颗 string
    工具 tools | 件 kit
    水手 sailors | 名 crew
    士兵 soldiers | 名 regiment
    法官 judges | 位 panel
    小偷 thieves | 名 gang
""")
