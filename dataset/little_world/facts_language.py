"""Opposites and measure words. One line an entity, both languages; see `relation.table`."""

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

# noun | the word it is counted with: in Chinese the measure word of one, in English the word before "of"
MEASURES = table("""
    马 horses | 匹 herd
    鱼 fish | 条 school
    牛 cattle | 头 herd
    羊 sheep | 只 flock
    狼 wolves | 匹 pack
    狮子 lions | 头 pride
    蜜蜂 bees | 只 swarm
    蚂蚁 ants | 只 colony
    船 ships | 艘 fleet
    山 mountains | 座 range
    花 flowers | 朵 bouquet
    书 books | 本 stack
    纸 paper | 张 sheet
    扑克牌 cards | 张 deck
    肥皂 soap | 块 bar
    面包 bread | 片 loaf
    蛋糕 cake | 块 slice
    糖果 sweets | 颗 bag
    水珠 water | 滴 drop
    大米 rice | 粒 grain
    沙子 sand | 粒 grain
    牙膏 toothpaste | 支 tube
    鞋 shoes | 双 pair
    筷子 chopsticks | 双 pair
    袜子 socks | 双 pair
    眼镜 spectacles | 副 pair
    剪刀 scissors | 把 pair
    裤子 trousers | 条 pair
    钥匙 keys | 把 bunch
    楼梯 stairs | 级 flight
    葡萄 grapes | 串 bunch
    茶 tea | 杯 cup
    牛奶 milk | 杯 glass
    汤 soup | 碗 bowl
    蜂蜜 honey | 罐 jar
    青草 grass | 根 blade
    家具 furniture | 件 piece
    消息 news | 条 piece
    大蒜 garlic | 瓣 clove
    火柴 matches | 根 box
    闪电 lightning | 道 flash
""")
